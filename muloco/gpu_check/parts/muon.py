"""Muon's step beside that of its peers."""

from muloco.gpu_check.row import Part, Row


def _row(flavor: str, seconds: float, memory_gib: float) -> Row:
    return Row(
        name=f"muon_{flavor.replace('.', '_')}",
        what=f"Muon's step on the matrices of {flavor}, beside torch's, those of peers that are installed, and AdamW",
        where=("optim/muon.py", "optim/owners.py"),
        command=f"`python benchmarks/muon.py --device cuda --flavor {flavor}`",
        check=f"muon:step_{flavor.replace('.', '_')}",
        seconds=seconds,
        limit=120,
        memory_gib=memory_gib,
        alone=True,
    )


PART = Part(
    "muon",
    "Muon's step at 416M, 150M and 1.76B beside torch's and others'",
    (
        _row("416M", 18, 14),
        _row("150M", 16, 6),
        _row("1.76B", 20, 48),
        Row(
            name="muon_batches",
            what="how many matrices Muon takes in a batch",
            where=("optim/owners.py",),
            command='`python benchmarks/muon.py --device cuda`, for several `BATCH_ELEMENTS["cuda"]`',
            check="muon:batches",
            alone=True,
        ),
    ),
)
