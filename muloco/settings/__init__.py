"""The settings of a run: what a user may choose, section by section, read from files and command lines. Needs nothing
but Python."""
