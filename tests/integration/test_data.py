"""Runs on data of one's own, as a user starts them."""

import json
import random
from pathlib import Path

import pytest

from .runs import train

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"
SYNCED = {"fault_tolerance__sync_steps": 4, "fault_tolerance__transport": "in_process"}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "far", "away", "from", "it"]


def write(path: Path, documents: int, seed: int) -> str:
    draw = random.Random(seed)
    texts = (" ".join(draw.choices(WORDS, k=draw.randint(20, 200))) for _ in range(documents))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def break_a_line(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("{broken\n")


@pytest.fixture(autouse=True)
def _offline_with_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULOCO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.full
def test_two_workers_train_on_a_jsonl_file(tmp_path: Path) -> None:
    corpus = write(tmp_path / "cats.jsonl", 300, seed=1)
    break_a_line(corpus)
    run = train(tmp_path, "cats", MULOCO, data__corpus=corpus, training__steps=8, **SYNCED)
    assert run.status == 0, run.output
    assert f"corpus {corpus} (sha256 " in run.output and "skipped 1 that hold no text" in run.output
    assert all(digests[0] == digests[1] for digests in run.digests()) and len(run.digests()) == 2
    assert run.validation()[8] < run.validation()[0] - 1
    strict = train(tmp_path, "strict", MULOCO, data__corpus=corpus, data__strict=True)
    assert strict.status == 2 and "line 301: not JSON" in strict.output and not strict.folder.config.exists()


@pytest.mark.full
def test_a_streaming_mixture_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Of a file, a folder and a data set; from a checkpoint in the middle of a block and of an epoch."""
    for folder in ("folder", "hub"):
        (tmp_path / folder).mkdir()
    cats = write(tmp_path / "cats.jsonl", 200, seed=1)
    break_a_line(cats)
    write(tmp_path / "folder" / "a.jsonl", 150, seed=2)
    (tmp_path / "folder" / "b.txt").write_text("dogs and cats\n" * 4000)
    write(tmp_path / "hub" / "train.jsonl", 250, seed=3)
    data = ["--data.corpus", cats, str(tmp_path / "folder"), f"hf:{tmp_path / 'hub'}", "--data.weights", "2", "1", "1"]
    settings = {"data__prepare": False, "data__shuffle_buffer": 12, "checkpoint__interval": 5}
    settings |= {"data__predict_bos": True, "training__precision": "autocast"}
    steps = {"training__steps": 9, **SYNCED}
    whole = train(tmp_path, "run", MULOCO, *data, **settings, **steps)
    assert whole.status == 0, whole.output
    assert "streamed and tokenized on the way, 50.0% of the sequences" in whole.output

    def first_five_steps(folder: Path) -> None:
        """The folder of the same run as if it had been stopped after its checkpoint."""
        (folder / "run" / "checkpoint").mkdir(parents=True)
        config = json.loads(whole.folder.config.read_text())
        for part in ("chosen", "resolved"):
            config[part]["run"]["outputs"] = str(folder)
        (folder / "run" / "config.json").write_text(json.dumps(config))
        (whole.folder.checkpoint / "step-5").rename(folder / "run" / "checkpoint" / "step-5")

    first_five_steps(tmp_path / "again")
    resumed = train(tmp_path / "again", "run", str(tmp_path / "again" / "run" / "config.json"), "--resume", **steps)
    assert resumed.status == 0, resumed.output
    for worker in (0, 1):
        assert len(resumed.losses(worker)) == 4 and resumed.losses(worker) == whole.losses(worker)[5:]
    assert resumed.digests() == whole.digests()[1:]
