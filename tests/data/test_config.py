"""The `data` section of a config: what is derived, what is refused, the command that prepares."""

import json
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.errors import UserError
from muloco.resolve import completed, resolve
from muloco.settings.config import Config
from muloco.settings.load import load_config
from muloco.settings.overrides import apply_overrides
from muloco.settings.stored import from_dict, to_dict
from muloco.training.data import prepare_data


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n} " * 200}) + "\n" for n in range(200)))
    return path


def config(words: str = "") -> Config:
    return apply_overrides(load_config("config/laptop/muon.py"), words.split())


def test_one_source_or_several_on_the_command_line(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.parent)
    one = resolve(config("--data.corpus a.jsonl"))
    assert one.data.corpus == str(corpus) and one.data.prepare is True
    several = resolve(config("--data.corpus embedded a.jsonl --data.weights 0.2 1 --data.prepare false"))
    assert several.data.corpus == ("embedded", str(corpus)) and several.data.weights == (0.2, 1.0)
    assert several.data.prepare is False and several.data.sources == several.data.corpus
    stored = json.loads(json.dumps(to_dict(several)))
    assert completed(from_dict(stored, where=""), where="") == resolve(several) == several
    assert resolve(config("--data.corpus hf:owner/name:en@test")).data.prepare is False
    assert resolve(config("--data.corpus hf:owner/name --data.prepare true")).data.prepare is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.corpus nowhere.jsonl", "data.corpus: there is no file or folder"),
        ("--data.validation nowhere.jsonl", "data.validation: there is no file or folder"),
        ("--data.corpus embedded broken", "broken is a broken link: nowhere does not exist"),
        ("--data.corpus hf:a:b:c", "write hf:OWNER/NAME"),
        ("--data.corpus embedded --data.weights 1 2", "data.weights has 2 entries, data.corpus has 1"),
        ("--data.corpus embedded a.jsonl --data.weights 1 0", "data.weights must be above 0; got 0"),
        ("--data.corpus embedded hf:a/b", "data.weights is needed"),
        ("--data.shuffle_buffer 0", "data.shuffle_buffer must be at least 1"),
        ("--data.tokenizer nowhere", "there is no tokenizer folder"),
        ("--data.tokenizer large", "has 5000 entries, more than the 2048 of flavor laptop"),
        ("--data.vocabulary 4096", "data.vocabulary must be from 258 to the 2048 of flavor laptop"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(corpus: Path, monkeypatch, words: str, message: str) -> None:
    monkeypatch.chdir(corpus.parent)
    Path("broken").symlink_to("nowhere")
    Path("large").mkdir()
    vocabulary = {"<|begin_of_text|>": 0, "<|end_of_text|>": 4999}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"}
    Path("large/tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(UserError) as refusal:
        resolve(config(words))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_prepare_command(corpus: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MULOCO_CACHE", str(corpus.parent / "cache"))
    words = ["prepare", "config/laptop/muon.py", "--data.corpus", str(corpus), "--validation.sequences", "8"]
    assert main(words) == 0
    assert f"corpus {corpus} (sha256 " in capsys.readouterr().out
    assert len(list((corpus.parent / "cache").glob("a.jsonl-*"))) == 1
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", "--help"])
    assert "$MULOCO_CACHE" in capsys.readouterr().out
    assert main([*words[:-1], "8000"]) == 2
    assert "take fewer (validation.sequences)" in capsys.readouterr().err


@pytest.mark.parametrize("prepare", ["true", "false"])
def test_more_ranks_than_documents_are_refused_before_the_start(corpus: Path, monkeypatch, prepare: str) -> None:
    """By the launcher, which prepares the data, and not by a worker that finds nothing to read."""
    monkeypatch.setenv("MULOCO_CACHE", str(corpus.parent / "cache"))
    words = f"--data.corpus {corpus} --validation.sequences 8 --data.prepare {prepare} --training.local_batch_size 1"
    words += " --fault_tolerance.semi_sync_method diloco"
    prepare_data(resolve(config(f"{words} --fault_tolerance.group_size 8 --training.global_batch_size 8")))
    words += " --parallelism.data_parallel_shard_degree 8 --fault_tolerance.group_size 64"
    with pytest.raises(UserError, match="take fewer workers") as refusal:
        prepare_data(resolve(config(f"{words} --training.global_batch_size 512")))
    assert "512" in str(refusal.value) and "\n" not in str(refusal.value)
