"""What workers say to each other, and how they come to the same end of a round."""
