"""Rows for the speed of a Muon step, compared with other implementations of Muon."""

from muloco.gpu_check.row import Part, Row


def _row(flavor: str, seconds: float, memory_gib: float) -> Row:
    return Row(
        name=f"muon_{flavor.replace('.', '_')}",
        what=f"a Muon step on the matrices of {flavor}, compared with torch's Muon, other installed Muons, and AdamW",
        where=("optim/whole_matrices.py", "optim/owners.py"),
        command=f"run `python benchmarks/muon.py --device cuda --flavor {flavor}`",
        check=f"muon:step_{flavor.replace('.', '_')}",
        seconds=seconds,
        limit=120,
        memory_gib=memory_gib,
        alone=True,
    )


PART = Part(
    "muon",
    "speed of a Muon step at 416M, 150M and 1.76B, compared with torch's and other implementations",
    (
        _row("416M", 18, 14),
        _row("150M", 16, 6),
        _row("1.76B", 20, 48),
        Row(
            name="muon_batches",
            what="speed of a Muon step for several numbers of matrices in a batch",
            where=("optim/owners.py",),
            command='run `python benchmarks/muon.py --device cuda` for several values of `BATCH_ELEMENTS["cuda"]`',
            check="muon:batches",
            alone=True,
        ),
    ),
)
