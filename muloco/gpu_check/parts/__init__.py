"""The rows of `muloco check-gpu`, one file for each part."""
