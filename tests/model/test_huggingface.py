"""The Hugging Face form of the model against transformers itself."""

import pytest
import torch

from muloco.model import build
from muloco.model.architectures.paper_llama.huggingface import FORM
from muloco.model.flavors import flavor
from muloco.model.weights_folder import check_names

from ..run_on_disk import random_weights

SMALL = flavor("small")  # its width is no power of four, so that sqrt(width) is no power of two


def test_transformers_computes_the_same_logits() -> None:
    transformers = pytest.importorskip("transformers")
    weights = random_weights(flavor="small")
    ours = build("small", "cpu", seq_len=64)
    ours.load_state_dict(weights)
    config = FORM.config(SMALL, seq_len=64, bos_id=0, eos_id=1)
    theirs = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**config)).eval()
    converted = {FORM.names(SMALL)[name]: FORM.write(name, tensor, SMALL) for name, tensor in weights.items()}
    assert set(converted) == set(theirs.state_dict())
    theirs.load_state_dict(converted)

    tokens = torch.randint(SMALL.vocabulary, (3, 64), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(64).expand(3, 64)
    with torch.no_grad():
        expected = theirs(tokens).logits
        found = ours(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions))
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.std()))


def test_back_again() -> None:
    for name, tensor in random_weights(flavor="small").items():
        again = FORM.read(name, FORM.write(name, tensor, SMALL), SMALL)
        torch.testing.assert_close(again, tensor, rtol=1e-6, atol=1e-7)


def test_names_are_those_of_the_model() -> None:
    parameters = dict(build("small").named_parameters())
    check_names(parameters, FORM.names(SMALL), where="the model")
    with pytest.raises(ValueError, match=r"the model lacks layers.1.ffn_norm.weight$"):
        check_names(parameters.keys() - {"layers.1.ffn_norm.weight"}, FORM.names(SMALL), where="the model")
    with pytest.raises(ValueError, match=r"has, which the model has not, extra.bias$"):
        check_names([*parameters, "extra.bias"], FORM.names(SMALL), where="the model")
