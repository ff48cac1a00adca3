"""`muloco report`: from the records of runs to the paper's tables and figures.

tables.py, ablations.py     the paper's tables; those along H, bits and fragments
laws.py, wall_time.py       what follows from fits over scales; hours against bandwidth
values.py                   from the values of a table to the series of a figure
figures.py, law_figures.py  the paper's figures as data
contents.py                 the whole report
markdown.py, page.py        the report as Markdown and as HTML
writing.py, command.py      the folder; the command
"""
