"""`muloco report`: from the records of runs to the paper's tables and figures (contents.py), and its pages."""
