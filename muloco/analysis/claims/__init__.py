"""What the paper claims, as statements about numbers, and whether runs bear them out."""
