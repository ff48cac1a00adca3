"""`muloco check-gpu`: what can be checked on a GPU, one row a check, and what has been.

`parts/` declares the rows, `checks/` holds the functions that check them, each of which runs in a process of its own
(`one_row.py`). `runner.py` runs them within a time budget and keeps the record up to date, and `page.py` writes
docs/untested-on-gpu.md from the rows and the committed records. `bundle.py` packs everything for a machine without a
network.
"""
