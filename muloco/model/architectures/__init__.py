"""The architectures, a folder or file each, which holds its record as `ARCHITECTURE`. All in this folder are
registered."""
