"""What K workers make of the same H steps: how far apart their pseudogradients point, and what averaging cancels
(docs/pseudogradients.md)."""
