"""The family against the paper's tables (PAPER 2.1, 2.2, 2.4)."""

import pytest
import torch

import muloco.model
from muloco.model.architectures.paper_llama.flavors import FLAVORS
from muloco.model.architectures.paper_llama.huggingface import FORM
from muloco.model.flavors import flavor

PARAMETERS = {
    "150M": 150_616_064,
    "416M": 416_862_208,
    "914M": 914_343_936,
    "1.76B": 1_758_666_752,
    "3.1B": 3_065_436_160,
    "llama3-w3072-d36-h24_qk_torch-rmsnorm_pa_pf": 4_950_257_664,
    "llama3-w3584-d42-h28_qk_torch-rmsnorm_pa_pf": 7_528_736_768,
    "llama3-w4096-d48-h32_qk_torch-rmsnorm_pa_pf": 10_916_478_976,
    "15B": 15_229_089_792,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_papers(name: str) -> None:
    model = muloco.model.build(name)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name] == flavor(name).parameters


@pytest.mark.parametrize(("name", "millions"), [("150M", 19.3), ("416M", 154.1), ("15B", 14046)])
def test_matrices_are_the_papers(name: str, millions: float) -> None:
    assert flavor(name).parameters_by_role["matrix"] / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", [flavor.alias for flavor in FLAVORS])
def test_every_flavor_counts_as_it_is_built(name: str) -> None:
    model = muloco.model.build(name)
    assert sum(p.numel() for p in model.parameters()) == flavor(name).parameters
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == flavor(name).shapes
    for ours, shape in shapes.items():  # what an exported folder is checked against
        assert FORM.write(ours, torch.empty(shape, device="meta"), flavor(name)).shape == shape


def test_names_and_aliases_mean_the_same() -> None:
    assert flavor("416M").name == "llama3-w1024-d12-h8_qk_torch-rmsnorm_pa_pf"
    assert flavor("llama3-w1024-d12-h8_qk_torch-rmsnorm_pa_pf") == flavor("416M")
    assert len(muloco.model.flavors()) == len(set(muloco.model.flavors())) >= 12


def test_unknown_flavor_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no flavor '415M'; did you mean 416M"):
        flavor("415M")


def test_initialization_is_the_papers() -> None:
    """Standard deviations of PAPER 2.1; the tolerance is some five standard errors of the smallest tensor."""
    torch.manual_seed(0)
    model = muloco.model.build("laptop", "cpu")
    parameters = dict(model.named_parameters())
    depth_scaled = [0.02 / (2 * (layer + 1)) ** 0.5 for layer in range(3)]
    expected = {"tok_embeddings.weight": 1.0, "lm_head.weight": 256**-0.5 * 0.9866}  # cut at three deviations
    for layer in range(3):
        prefix = f"layers.{layer}"
        expected |= {f"{prefix}.attention.qkv_linear.{w}.weight": 0.02 for w in ("wq", "wk", "wv")}
        expected |= {f"{prefix}.feed_forward.w1.weight": 0.02}
        expected |= {f"{prefix}.{w}.weight": depth_scaled[layer] for w in ("attention.wo", "feed_forward.w2")}
        expected |= {f"{prefix}.feed_forward.w3.weight": depth_scaled[layer]}
    for name, deviation in expected.items():
        assert parameters.pop(name).std().item() == pytest.approx(deviation, rel=0.015), name
    assert all("norm" in name and bool((parameter == 1).all()) for name, parameter in parameters.items())
