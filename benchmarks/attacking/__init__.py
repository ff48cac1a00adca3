"""The catalogue of attacks on live runs, which `benchmarks/attacks.py` executes.

    registry.py      the form of an attack, and the decorator that adds one
    scenes.py        the live runs against which attacks are played
    judge.py         the verdict on a run after an attack
    table.py         the record and its table
    live.py          a live run of `muloco train`: its processes, its console, its metrics
    ports.py         the ports on which a run listens
    small_disks.py   a run whose files are on small file systems
    network_run.py   a run whose workers are in network namespaces (in_namespaces.py starts it, probe.py is a stranger)

One file for each family of attacks: kills.py, stops.py, signals.py, supervisors.py, lines.py, disks.py, wire.py and
answers.py (ports), secret.py, strangers.py (stranger.py is one) and siege.py (besieger.py), flips.py, checkpoints.py,
mutations.py, networks.py.
"""
