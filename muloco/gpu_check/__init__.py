"""`muloco check-gpu`: the checks that need a GPU, one row for each, and the page of their results.

`parts/` declares the rows, `checks/` holds the functions that check them, each of which runs in a process of its own
(`one_row.py`). `runner.py` runs them within a time budget and keeps the record up to date, and `page.py` writes
docs/untested-on-gpu.md from the rows and the committed records. `bundle.py` packs everything for a machine without a
network.
"""
