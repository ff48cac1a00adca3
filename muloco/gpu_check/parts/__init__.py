"""The rows, one file a part."""
