"""Runs tests that are written for the CPU with their tensors on the device."""

import importlib.util
import re

from muloco.gpu_check.bench import Bench, CheckFailed, Figures, NotHere, expect, in_checkout

OPTIM = (
    "optim/test_newton_schulz.py",
    "optim/test_muon.py",
    "optim/test_rules.py",
    "optim/test_gpa.py",
    "training/test_finite.py",
)
OUTER = (
    "outer/codecs/test_codecs.py",
    "outer/codecs/test_codec_properties.py",
    "outer/codecs/test_packing.py",
    "outer/codecs/test_error_feedback.py",
    "outer/loop/test_digest.py",
)
"""Files of tests of the outer loop without worker threads: tensors that a thread creates stay on the CPU."""
SHOWN = 3


def optim(bench: Bench) -> Figures:
    return _run(bench, OPTIM)


def outer(bench: Bench) -> Figures:
    return _run(bench, OUTER)


def _run(bench: Bench, files: tuple[str, ...]) -> Figures:
    if importlib.util.find_spec("pytest") is None:
        raise NotHere("it needs pytest")
    folder = in_checkout("tests")
    chosen = files[1:2] if bench.rehearsal else files
    words = ["-m", "pytest", "-q", "-p", "muloco.gpu_check.on_device", "-p", "no:cacheprovider", "--tb=short"]
    if importlib.util.find_spec("xdist") is not None and not bench.rehearsal:
        words += ["-n", "4"]
    status, said = bench.run(*words, *(str(folder / file) for file in chosen), folder=folder.parent)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, flags=re.M)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", _last(said))}
    if status:
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise CheckFailed(f"{_last(said)}: {', '.join(failed[:SHOWN])}{more}")
    expect(counts.get("passed", 0) > 0, f"no test passed: {_last(said)}")
    return dict(counts)


def _last(said: str) -> str:
    """Returns the last line of pytest's output, which has the counts."""
    return said.strip().splitlines()[-1].strip("= ") if said.strip() else "pytest printed nothing"
