"""`muloco report`: from run folders to the paper's tables and figures.

runs.py, method.py, zero_shot.py    run folders, read into records; what they are called
pooling.py                          seeds pooled, groups that are never mixed, the best of a grid
cells.py, tables.py, ablations.py   a table; the paper's tables; those along H, bits and fragments
laws.py, wall_time.py               what follows from fits over scales; hours against bandwidth
chart.py, marks.py                  a figure as data; from a table to lines
figures.py, law_figures.py          the paper's figures as data
contents.py                         the whole report
draw.py, markdown.py, page.py       pictures, Markdown, HTML
writing.py, command.py              the folder; the command
"""
