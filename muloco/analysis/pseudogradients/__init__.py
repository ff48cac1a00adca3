"""What K workers make of the same H steps: how far apart their pseudogradients point, and what averaging cancels
(PAPER 5.10; docs/pseudogradients.md)."""
