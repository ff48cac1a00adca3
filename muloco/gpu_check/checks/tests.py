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


def tests_optim(bench: Bench) -> Figures:
    return _run(bench, OPTIM)


def tests_outer(bench: Bench) -> Figures:
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
    last = (said.strip() or "pytest printed nothing").splitlines()[-1].strip("= ")  # it has the counts
    if status:
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, flags=re.M)
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise CheckFailed(f"{last}: {', '.join(failed[:SHOWN])}{more}")
    counts: Figures = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    expect("passed" in counts, f"no test passed: {last}")
    return counts
