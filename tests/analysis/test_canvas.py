"""Figures are drawn whatever backend the environment names, and leave the backend of a notebook alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from pathlib import Path
from muloco.analysis.canvas import canvas, save
with canvas(1, 2, width=3, height=2, name="figure") as (figure, axes):
    axes[0, 1].plot([1, 2, 3])
    save(figure, *(Path(sys.argv[1]) / f"figure.{ending}" for ending in ("png", "svg")))
assert "matplotlib.pyplot" not in sys.modules
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "tkagg"])
def test_any_backend_may_be_named(tmp_path: Path, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        env={**os.environ, "MPLBACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{backend}\n", done.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
