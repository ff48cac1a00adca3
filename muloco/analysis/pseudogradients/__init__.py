"""Compares the pseudogradients of K workers after H steps: how far apart they point, and what averaging cancels
(docs/pseudogradients.md)."""
