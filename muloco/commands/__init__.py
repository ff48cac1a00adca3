"""The commands: one module a command, with its options (`add`) and what it does (`run`). The work of a command that is
more than its command line is in a package of its own. `muloco.cli` lists the commands.

All modules are imported whenever `muloco` starts, so whatever is slow to import is imported by `run`.
"""
