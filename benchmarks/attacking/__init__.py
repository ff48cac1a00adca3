"""The catalogue of attacks on live runs: `benchmarks/attacks.py` plays it.

registry.py    what an attack is; the decorator that adds one
live.py        a live run of `muloco train`: its processes, its console, its metrics
ports.py       the ports on which a run listens
judge.py       what has become of a run
table.py       the record and its table
kills.py, stops.py, signals.py, supervisors.py, lines.py, disks.py, wire.py, strangers.py, flips.py,
checkpoints.py, mutations.py, networks.py    one family of attacks each
"""
