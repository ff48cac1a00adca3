"""Experiments: each module has a function `config()`; run one with `muloco train config/FOLDER/NAME.py`."""
