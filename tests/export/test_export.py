"""Exported folders as others load them, and as a start of our own."""

import errno
import json
import os
import random
from pathlib import Path

import pytest
import torch

from muloco.cli import main
from muloco.errors import UserError
from muloco.model import build
from muloco.model.flavors import flavor
from muloco.model.initial import check_initial, load_initial
from muloco.training.trained import find_trained

from ..run_on_disk import random_weights, write_run


@pytest.mark.parametrize("shards", [[], ["--shard-gib", "0.0002"]])
def test_transformers_loads_it_and_computes_the_same(tmp_path: Path, shards: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    folder = tmp_path / "hf"
    assert main(["export", str(run.root), str(folder), *shards]) == 0
    assert len(list(folder.glob("*.safetensors"))) == (1 if not shards else len(list(folder.glob("model-*"))))
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs).__name__ == "Gemma3ForCausalLM" and theirs.dtype == torch.float32

    ours = find_trained(str(run.root)).model("cpu")
    tokens = torch.randint(2048, (2, 64), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(64).expand(2, 64)
    with torch.no_grad():
        expected = ours(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions))
        torch.testing.assert_close(theirs(tokens).logits, expected, rtol=1e-4, atol=2e-5)

    tokenizer, own = transformers.AutoTokenizer.from_pretrained(folder), find_trained(str(run.root)).tokenizer()
    draw = random.Random(0)
    for _ in range(50):
        text = "".join(chr(draw.choice([draw.randrange(32, 127), draw.randrange(0xA0, 0x2FFF)])) for _ in range(30))
        assert tokenizer(text)["input_ids"] == own.encode_text(text) == own.encode([text])[0][1:-1].tolist()
        assert tokenizer.decode(own.encode_text(text)) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (own.bos_id, own.eos_id)
    assert (theirs.generation_config.bos_token_id, theirs.generation_config.eos_token_id) == (own.bos_id, own.eos_id)
    card = (folder / "README.md").read_text()
    assert "step | 3 of 10" in card and '"flavor"' in card


def test_gemma_as_others_take_it_for_granted_is_another_function(tmp_path: Path) -> None:
    """What the card says of other software: the two settings are not Gemma 3's usual ones, and either one matters."""
    transformers = pytest.importorskip("transformers")
    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    folder = tmp_path / "hf"
    assert main(["export", str(run.root), str(folder)]) == 0
    usual, ours = transformers.Gemma3TextConfig(), json.loads((folder / "config.json").read_text())
    assert (usual.hidden_activation, ours["hidden_activation"]) == ("gelu_pytorch_tanh", "silu")
    assert (usual.tie_word_embeddings, ours["tie_word_embeddings"]) == (True, False)
    tokens = torch.randint(2048, (2, 64), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def logits(*, tied: bool = False, **changed) -> torch.Tensor:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **changed)
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
        return model(tokens).logits

    right = logits()
    for wrong in (logits(hidden_activation="gelu_pytorch_tanh"), logits(tied=True)):
        assert (wrong - right).norm() > 0.01 * right.norm()
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("vLLM", "llama.cpp", "`silu`", "`lm_head.weight`"))


def test_torch_reads_the_state_dict(tmp_path: Path) -> None:
    weights = random_weights()
    run = write_run(tmp_path / "run", {"average": weights})
    assert main(["export", str(run.root), str(tmp_path / "pt"), "--format", "torch"]) == 0
    model = build("tiny", "cpu", seq_len=64)
    model.load_state_dict(torch.load(tmp_path / "pt" / "model.pt", weights_only=True))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert {"config.json", "tokenizer.json"} < {path.name for path in (tmp_path / "pt").iterdir()}


def test_nothing_is_overwritten_or_left_half_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights()
    run = write_run(tmp_path / "run", {"anchor": weights})
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine").touch()
    assert main(["export", str(run.root), str(tmp_path / "hf")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    del weights["norm.weight"]
    run = write_run(tmp_path / "less", {"anchor": weights})
    assert main(["export", str(run.root), str(tmp_path / "out" / "hf")]) == 2
    assert "lacks norm.weight" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("name", ["file/hf", "x" * 300, "full"])
@pytest.mark.parametrize("kind", ["hf", "torch"])
def test_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """Below a file, with a name that is too long, on a disk that is full; nothing of it stays."""
    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())

    def no_space(*args, **kwargs) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if name == "full":
        monkeypatch.setattr("muloco.export.folders.write_weights", no_space)
        monkeypatch.setattr("muloco.export.folders.torch.save", no_space)
    assert main(["export", str(run.root), str(tmp_path / name), "--format", kind]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"muloco: DIR {tmp_path / name} cannot be written: ") and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_starts_from_it(tmp_path: Path) -> None:
    weights = random_weights()
    run = write_run(tmp_path / "run", {"anchor": weights})
    main(["export", str(run.root), str(tmp_path / "hf")])
    model = build("tiny", "cpu", seq_len=64)
    load_initial(tmp_path / "hf", [model], flavor("tiny"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-6, atol=1e-7)

    with pytest.raises(
        UserError, match=r"model\.embed_tokens\.weight is \(2048, 64\), but flavor small has \(2048, 128\)"
    ):
        check_initial(tmp_path / "hf", flavor("small"))
    with pytest.raises(UserError, match=r"lacks model\.layers\.2\."):
        check_initial(tmp_path / "hf", flavor("laptop"))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(UserError, match="type 'llama'"):
        check_initial(tmp_path / "hf", flavor("tiny"))
    with pytest.raises(UserError, match="checkpoint.initial: .* holds no weights"):
        check_initial(tmp_path, flavor("tiny"))
