"""Commands that read a checkpoint: one that is damaged or hostile is refused in one line; `muloco check` finds it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muloco.cli import main
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder
from muloco.runs.manifest import Manifest, Save

from ..evals.local_tasks import NAMES, write_tasks
from ..hostile import GADGETS, Call, hide_in_metadata, saved
from ..patience import PATIENCE
from ..run_on_disk import add_checkpoint, add_empty_part, files_in, random_weights, reseal, write_run

COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "eval": lambda root: ["eval", str(root / "run"), "--tasks", NAMES[0], "--include-path", str(root / "tasks")],
    "export": lambda root: ["export", str(root / "run"), str(root / "out")],
    "export to torch": lambda root: ["export", str(root / "run"), str(root / "out"), "--format", "torch"],
    "generate": lambda root: ["generate", str(root / "run"), "--prompt", "x", "--tokens", "1"],
    "analyze": lambda root: [
        *("analyze", "pseudogradients", str(root / "run"), "--workers", "2", "--steps", "1"),
        *("--out", str(root / "out")),
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a folder with a run that has a checkpoint of step 3."""
    write_run(tmp_path / "run", {"anchor": random_weights()})
    write_tasks(tmp_path / "tasks", documents=6)
    return tmp_path


def add_worker(run: RunFolder) -> None:
    """Gives the checkpoint an empty part of a worker."""
    folder = CheckpointFolder(run.checkpoint)
    save = Save(step=3, attempt=1, history="", parts=["global", "worker-000"])
    folder.part(3, "global").rename(folder.unfinished(3, "global"))
    folder.publish(save, "global", files_in(folder.unfinished(3, "global")))
    add_empty_part(folder, save, "worker-000")
    assert folder.complete(save)


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("muloco: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def hide_beside_metadata(part: Path, proof: Path) -> str:
    hide_in_metadata(part, GADGETS["os.system"](proof))
    return "global/.metadata cannot be read as the metadata of a checkpoint: it names posix.system"


def hide_in_tensors(part: Path, proof: Path) -> str:
    """All tensors are where they were; the first of them is another pickle."""
    from muloco.runs.safe_reader import read_metadata

    payload = saved(Call(os.mkdir, str(proof)))
    place = max(read_metadata(part).storage_data.values(), key=lambda place: place.length)
    path = part / place.relative_path
    data = path.read_bytes()
    path.write_bytes(data[: place.offset] + payload.ljust(place.length, b"\0") + data[place.offset + place.length :])
    return "global cannot be loaded: "


@pytest.mark.parametrize("hide", [hide_beside_metadata, hide_in_tensors])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_in_a_checkpoint_is_executed(
    root: Path, name: str, hide: Callable[[Path, Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "eval":
        pytest.importorskip("lm_eval")
    run = RunFolder(root / "run")
    reason = hide(run.checkpoint / "step-3" / "global", root / "proof")
    reseal(run, 3)
    if name == "analyze":
        add_worker(run)
        if hide is hide_in_tensors:
            reason = "worker-000/.metadata cannot be read"
    assert reason in refused(capsys, COMMANDS[name](root))
    assert not (root / "proof").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flipped_bit_is_refused(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(root / "run")
    add_worker(run)
    flip(run, 3, "global")
    assert re.search(r"global/__0_0\.distcp is damaged: its SHA-256 is", refused(capsys, COMMANDS[name](root)))


def test_the_older_whole_one_is_taken(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(root / "run")
    add_checkpoint(run, {"anchor": random_weights(1)}, step=5)
    flip(run, 5, "global")
    assert main(COMMANDS["export"](root)) == 0
    assert "step | 3 of 10" in (root / "out" / "README.md").read_text()
    (told,) = [message for message in caplog.messages if "skipped checkpoint" in message]
    assert "step-5" in told and "is damaged: its SHA-256" in told
    assert main([*COMMANDS["generate"](root), "--step", "5"]) == 2


def flip(run: RunFolder, step: int, part: str) -> None:
    path = run.checkpoint / f"step-{step}" / part / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["check", *words])
    return status, capsys.readouterr().out


def test_check_says_which_are_whole_and_what_is_wrong_with_others(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(root / "run")
    weights = {"anchor": random_weights()}
    for step in (4, 5, 6):
        add_checkpoint(run, weights, step=step)
    flip(run, 4, "global")
    hide_in_metadata(run.checkpoint / "step-5" / "global", GADGETS["exec"](root / "proof"))
    reseal(run, 5)
    (run.checkpoint / "step-7").mkdir()
    status, said = check(capsys, str(run.root), "--all")
    assert status == 1 and not (root / "proof").exists()
    assert re.fullmatch(
        r"step-3: whole \(1 part, [\d.e-]+ GB\)\n"
        r"step-4: not whole\n  \S+/step-4/global/__0_0\.distcp is damaged: its SHA-256 is \S+ and was \S+\n"
        r"step-5: not whole\n  \S+/step-5/global/\.metadata cannot be read as .*: it names builtins\.exec, .*\n"
        r"step-6: whole \(1 part, [\d.e-]+ GB\)\n"
        r"step-7: not whole\n  not all of its parts were written: it has no manifest.json\n",
        said,
    ), said
    assert check(capsys, str(run.root))[0] == 0, "the newest one that was whole once"
    assert check(capsys, str(run.root), "--step", "4")[0] == 1
    assert check(capsys, str(run.checkpoint / "step-4"))[0] == 1
    assert check(capsys, str(run.checkpoint / "step-6"))[0] == 0


@pytest.mark.parametrize("name", ["export", "generate", "check"])
def test_a_run_that_goes_on_does_not_remove_what_is_read(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It completes a newer checkpoint when the command has verified the one before, and not loaded it yet."""
    run = RunFolder(root / "run")
    verify = CheckpointFolder.verify

    def goes_on(folder: CheckpointFolder, *values: Any, **named: Any) -> None:
        monkeypatch.setattr(CheckpointFolder, "verify", verify)
        verify(folder, *values, **named)
        add_checkpoint(run, {"anchor": random_weights(1)}, step=5)
        folder.purge(1, newest=5)

    monkeypatch.setattr(CheckpointFolder, "verify", goes_on)
    assert main(COMMANDS[name](root) if name != "check" else ["check", str(run.root)]) == 0
    CheckpointFolder(run.checkpoint).purge(1, newest=5)
    assert CheckpointFolder(run.checkpoint).steps() == [5], "it does not hold it any more"


def test_check_skips_what_the_run_has_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(root / "run")
    add_checkpoint(run, {"anchor": random_weights(1)}, step=5)
    read = CheckpointFolder.read

    def goes_on(folder: CheckpointFolder, step: int) -> Manifest:
        folder.purge(1, newest=5)
        return read(folder, step)

    monkeypatch.setattr(CheckpointFolder, "read", goes_on)
    status, said = check(capsys, str(run.root), "--all")
    assert status == 0 and said.startswith("step-3: was removed meanwhile, as the run goes on\nstep-5: whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--step", "4"], "there is no checkpoint of step 4; there are 3"),
        (["RUN", "--step", "3", "--all"], "not allowed with"),
        (["RUN/checkpoint/step-3", "--all"], "--all checks all checkpoints of a run"),
        (["nowhere"], "nowhere is not the folder of a run"),
        ([], "muloco check needs a CHECKPOINT"),
        (["EMPTY"], "has no complete checkpoint"),
        (["RUN", "--al"], "unknown option --al; did you mean --all?"),
    ],
)
def test_check_refuses_what_is_no_checkpoint(
    root: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "run", root / "empty", ignore=shutil.ignore_patterns("checkpoint"))
    named = [word.replace("RUN", str(root / "run")).replace("EMPTY", str(root / "empty")) for word in words]
    assert message in refused(capsys, ["check", *named])


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640)])
@pytest.mark.parametrize("name", ["export", "export to torch"])
def test_exports_have_the_modes_that_the_umask_leaves(root: Path, name: str, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        assert main(COMMANDS[name](root)) == 0
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (root / "out").rglob("*") if path.is_file()}
    assert len(modes) > 3 and {path: seen for path, seen in modes.items() if seen != mode} == {}
    assert (root / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_real_export_of_a_hostile_checkpoint_executes_nothing(root: Path) -> None:
    run = RunFolder(root / "run")
    hide_beside_metadata(run.checkpoint / "step-3" / "global", root / "proof")
    reseal(run, 3)
    words = [sys.executable, "-m", "muloco", *COMMANDS["export"](root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and done.stderr.startswith("muloco: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (root / "proof").exists() and not (root / "out").exists()
