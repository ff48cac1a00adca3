"""Finished runs as records, on which claims, reports and the reproduction of the paper are built."""
