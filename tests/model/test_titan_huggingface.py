"""Folders of transformers as a start of torchtitan's models, and back."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from muloco.data.tokenizer import train_tokenizer
from muloco.errors import UserError
from muloco.export.folders import export_huggingface
from muloco.model import build
from muloco.model.architecture import Flavor, all_architectures, register
from muloco.model.architectures.titan import from_torchtitan
from muloco.model.architectures.titan.huggingface import FORMS
from muloco.model.initial import check_initial, load_initial
from muloco.model.weights_folder import WeightsFolder
from muloco.resolve import resolution
from muloco.settings.load import load_config
from muloco.training.trained import find_trained

from ..run_on_disk import BYTES
from ..training.one_worker import losses, train
from .small_titan import small_spec

KINDS = {"llama3": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


@pytest.fixture(params=KINDS)
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Flavor:
    monkeypatch.setattr("muloco.model.architecture._ARCHITECTURES", {new.name: new for new in all_architectures()})
    kind = request.param
    form = FORMS[kind.removesuffix("_moe")]
    return register(from_torchtitan("hub", {kind: partial(small_spec, kind)}, huggingface=form)).flavors[0]


def made_by_transformers(size: Flavor, folder: Path):
    """A model of random weights, saved in several shards."""
    transformers = pytest.importorskip("transformers")
    config = size.record.huggingface.config(size, seq_len=32, bos_id=0, eos_id=1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="5MB")
    assert (folder / "model.safetensors.index.json").exists()
    return model


def test_the_logits_are_those_of_transformers_and_the_weights_go_back_bit_for_bit(size: Flavor, tmp_path: Path) -> None:
    theirs = made_by_transformers(size, tmp_path)
    assert type(theirs).__name__ == KINDS[size.alias.removeprefix("hub/")]
    ours = build(size.name, "cpu", seq_len=32)
    load_initial(tmp_path, [ours], size)
    tokens = torch.randint(2048, (2, 32), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(32).expand(2, 32)
    with torch.no_grad():
        expected = theirs(tokens).logits
        found = ours.eval()(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions))
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    folder, form = WeightsFolder(tmp_path), size.record.huggingface
    back = dict(form.written({name: parameter.detach() for name, parameter in ours.named_parameters()}, size))
    assert list(back) == list(form.shapes(size)) and back.keys() == folder.shapes.keys()
    assert all(torch.equal(tensor, folder.read(name)) for name, tensor in back.items())


def test_a_folder_of_another_model_is_refused(size: Flavor, tmp_path: Path) -> None:
    made_by_transformers(size, tmp_path)
    check_initial(tmp_path, size)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name, value, message in (
        ("rms_norm_eps", 0.5, r"config.json: rms_norm_eps is 0\.5, but flavor hub/\w+ has 1e-0"),
        ("rope_theta", 12.0, "rope_parameters is .*12.0.*, but flavor hub/"),
        ("model_type", "gpt2", "holds a model of type 'gpt2', but flavor hub/"),
    ):
        changed = {key: old for key, old in config.items() if (name, key) != ("rope_theta", "rope_parameters")}
        path.write_text(json.dumps({**changed, name: value}))
        with pytest.raises(UserError, match=message):
            check_initial(tmp_path, size)


@pytest.mark.parametrize("size", ["qwen3"], indirect=True)
def test_a_tokenizer_that_comes_with_the_weights_is_not_forgotten_silently(size: Flavor, tmp_path: Path) -> None:
    made_by_transformers(size, tmp_path)
    words = ["--model.flavor", size.name, "--checkpoint.initial", str(tmp_path)]
    assert not resolution(load_config("config/laptop/muloco.py", words)).notes
    train_tokenizer(BYTES, 258, tmp_path)
    (note,) = resolution(load_config("config/laptop/muloco.py", words)).notes
    assert f"--data.tokenizer {tmp_path} takes it" in note
    assert not resolution(load_config("config/laptop/muloco.py", [*words, "--data.tokenizer", str(tmp_path)])).notes


def test_a_buffer_without_a_place_in_transformers_is_not_lost(size: Flavor) -> None:
    weights = build(size.name, "cpu", seq_len=8).state_dict()
    form = size.record.huggingface
    assert dict(form.written(weights, size)), "biases that are zero do nothing"
    for name in weights:
        if name.endswith("expert_bias_E"):
            changed = {**weights, name: torch.ones_like(weights[name])}
            with pytest.raises(UserError, match=rf"no place for {name}, .*choose --format torch"):
                dict(form.written(changed, size))


@pytest.mark.parametrize("size", ["qwen3"], indirect=True)
def test_two_workers_train_a_folder_of_transformers_and_hand_it_back(
    size: Flavor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by_transformers(size, tmp_path / "before")
    metrics = train(
        tmp_path,
        monkeypatch,
        "muloco",
        model__flavor=size.name,
        checkpoint__initial=tmp_path / "before",
        checkpoint__enable=True,
        fault_tolerance__group_size=2,
        fault_tolerance__transport="in_process",
        fault_tolerance__sync_steps=2,
        training__steps=4,
        training__seq_len=32,
        optimizer__lr=0.002,
    )
    validation = [loss for name, _, loss in losses(metrics) if name == "validation_loss"]
    assert validation[-1] < validation[0] - 0.01
    trained = find_trained(str(tmp_path / "run"))
    export_huggingface(trained, tmp_path / "after", dtype=torch.float32, largest=2**20)

    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "after", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.max_position_embeddings == size.longest
    ours = trained.model("cpu")
    tokens = torch.randint(2048, (2, 32), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(32).expand(2, 32)
    with torch.no_grad():
        found = ours(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions))
        torch.testing.assert_close(found, theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "after")
    assert tokenizer("def main")["input_ids"] == trained.tokenizer().encode_text("def main")
    again = build(size.name, "cpu", seq_len=32)
    load_initial(tmp_path / "after", [again], size)
    assert all(torch.equal(again.get_parameter(name), tensor) for name, tensor in trained.weights().items())
