"""The settings of a run, section by section, read from files and command lines. Needs nothing but Python."""
