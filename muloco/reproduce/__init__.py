"""The paper's claims and some studies beyond it at a size for two CPU cores: what is run, in which order, and the page
with the results."""
