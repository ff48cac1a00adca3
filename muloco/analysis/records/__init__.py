"""Finished runs as records: read from their folders, named by their method, pooled over seeds. Claims, reports and
`muloco paper` are built on them."""
