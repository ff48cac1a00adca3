"""Finished runs as records, on which claims, reports and the reproduction of the paper are built.

runs.py, zero_shot.py  run folders, read into records
method.py              what a run is called
pooling.py             seeds pooled, groups that are never mixed, the best of a grid
"""
