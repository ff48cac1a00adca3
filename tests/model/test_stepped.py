"""How the parameters of a flavor are stepped: by role, as stacks and fused projections, and as the user says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from muloco._torchtitan import OptimizersContainer
from muloco.describe import WIDTH, describe_roles
from muloco.errors import UserError
from muloco.model.architecture import Architecture, Flavor, all_architectures, register
from muloco.model.flavors import flavor
from muloco.model.stepped import stepped
from muloco.optim.choices import ALGORITHMS, Choices
from muloco.pytorch import Muon
from muloco.resolve import resolve
from muloco.settings.load import load_config
from muloco.settings.optimizer import Optimizer, Role
from muloco.training.optimizers import inner_optimizers

SHAPES = {
    "tok_embeddings.weight": (17, 8),
    **{
        f"layers.{layer}.{name}": shape
        for layer in range(2)
        for name, shape in {
            "attention.wqkv.weight": (16, 8),
            "attention.wo.weight": (8, 8),
            "attention.sinks": (2,),
            "moe.experts.w1": (3, 6, 8),
            "moe.router.gate.weight": (3, 8),
            "conv.weight": (8, 1, 4),
        }.items()
    },
    "norm.weight": (8,),
    "lm_head.weight": (17, 8),
}


@dataclass(frozen=True, kw_only=True)
class Mixture(Flavor):
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return SHAPES

    @property
    def fused(self) -> Mapping[str, tuple[int, ...]]:
        return {r"wqkv": (8, 4, 4)}

    @property
    def divided(self) -> Mapping[str, int]:
        return {}


@pytest.fixture
def mixture(monkeypatch: pytest.MonkeyPatch) -> Flavor:
    monkeypatch.setattr("muloco.model.architecture._ARCHITECTURES", {new.name: new for new in all_architectures()})
    roles = {
        "matrix": r"attention\.w|experts\.",
        "embedding": r"^tok_embeddings\.weight$",
        "head": r"^lm_head\.weight$",
        "router": r"router",
        "scalar": r"norm\.weight$|sinks$",
        "other": r"conv\.weight$",
    }
    size = Mixture(architecture="mixture", alias="mixture-tiny", vocabulary=2048)
    return register(
        Architecture(name="mixture", flavors=(size,), spec=lambda *_, **__: NotImplemented, roles=roles)
    ).flavors[0]


class Model(nn.Module):
    """Parameters of these names, with gradients that depend on the step alone."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(torch.randn(shape, generator=generator)))

    def gradients(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in self.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def completed(optimizer: Optimizer) -> Optimizer:
    optimizer.complete({})
    return optimizer


CHOSEN = {
    "role_of": ("lm_head=matrix", r"layers\.1\.moe\.router=other"),
    "split": (r"layers\.1\.attention\.wqkv=4,4",),
    "per_head": ("wqkv=4", r"experts=2"),
}


def build(size: Flavor, optimizer: Optimizer, model: Model) -> OptimizersContainer:
    return inner_optimizers(completed(optimizer), size.record.roles, size).build(model_parts=[model])  # type: ignore[arg-type]


def test_roles_and_matrices_of_a_flavor(mixture: Flavor) -> None:
    found = {
        (group.role, name): (group.rule, group.matrices(name))
        for group in stepped(mixture, ALGORITHMS)
        for name in group.shapes
        if not name.startswith("layers.1")
    }
    assert found == {
        ("matrix", "layers.0.attention.wqkv.weight"): ("muon", "[16, 8] as [8, 8], 2 of [4, 8]"),
        ("matrix", "layers.0.attention.wo.weight"): ("muon", "[8, 8]"),
        ("matrix", "layers.0.moe.experts.w1"): ("muon", "[3, 6, 8] as 3 of [6, 8]"),
        ("embedding", "tok_embeddings.weight"): ("adamw", "[17, 8]"),
        ("head", "lm_head.weight"): ("adamw", "[17, 8]"),
        ("router", "layers.0.moe.router.gate.weight"): ("muon", "[3, 8]"),
        ("scalar", "layers.0.attention.sinks"): ("adamw", "[2]"),
        ("scalar", "norm.weight"): ("adamw", "[8]"),
        ("other", "layers.0.conv.weight"): ("adamw", "[8, 1, 4]"),
    }


def test_the_papers_models_are_stepped_by_the_patterns_of_their_record() -> None:
    groups = stepped(flavor("tiny"), ALGORITHMS)
    assert {group.role: group.pattern for group in groups} == flavor("tiny").record.roles
    assert not any(group.form for group in groups)


@pytest.mark.parametrize("rule", ["muon", "normuon"])
@pytest.mark.parametrize("chosen", [{}, CHOSEN], ids=["record", "user"])
def test_the_trainers_optimizer_steps_as_the_librarys(
    mixture: Flavor, rule: str, chosen: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And its checkpoint continues to the bit."""
    settings = {"lr": 0.05, "weight_decay": 0.3}
    ours, theirs = Model(), Model()
    split = {r"layers\.1\.attention\.wqkv": [4, 4]} if chosen else {}
    by_hand = Muon(
        theirs,
        **settings,
        role_of={"lm_head": "matrix", r"layers\.1\.moe\.router": "other"} if chosen else None,
        split=split | {"wqkv": [8, 4, 4]},
        per_head={"wqkv": 4, "experts": 2} if chosen else None,
    )
    for group in by_hand.param_groups:
        group["weight_decay"] = settings["weight_decay"]
        if group["role"] == "matrix":
            group["algorithm"], group["beta2"] = rule, 0.99
    options = {"matrix": Role(rule=rule), **settings, **chosen}
    optimizers = build(mixture, Optimizer(**options), ours)
    for step in range(6):
        if step == 3:
            folder = tmp_path_factory.mktemp("checkpoint")
            dcp.save({"model": ours.state_dict(), "optimizer": optimizers.state_dict()}, checkpoint_id=folder)
        for model, optimizer in ((ours, optimizers), (theirs, by_hand)):
            model.gradients(step)
            optimizer.step()
    matrices = {id(param) for group in by_hand.param_groups if "uon" in group["algorithm"] for param in group["params"]}
    for (name, own), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, its, rtol=0, atol=1e-6)  # torchtitan's AdamW is the fused one
        assert torch.equal(own, its) or id(its) not in matrices, name
    again = Model()
    resumed = build(mixture, Optimizer(**options), again)
    state = {"model": again.state_dict(), "optimizer": resumed.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    again.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    for step in range(3, 6):
        again.gradients(step)
        resumed.step()
    assert all(map(torch.equal, again.parameters(), ours.parameters()))


def test_the_planned_state_is_what_the_optimizer_keeps(mixture: Flavor) -> None:
    from muloco.analysis.memory import _inner_state

    words = [
        "--model.flavor",
        "mixture-tiny",
        "--optimizer.role_of",
        "lm_head=matrix",
        "--optimizer.per_head",
        "wqkv=4",
    ]
    config = load_config("config/laptop/muloco.py", words)
    config.optimizer.router.rule, config.optimizer.other.rule = "adamw", "lion"
    resolved = resolve(config)
    model = Model()
    optimizers = build(mixture, replace(resolved.optimizer), model)
    model.gradients(0)
    optimizers.step()
    kept = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    assert sum(value.numel() for value in kept if value.ndim) == _inner_state(resolved)


def test_roles_are_shown(mixture: Flavor) -> None:
    words = ["--optimizer.router.rule", "adamw", "--optimizer.per_head", "wo=4"]
    resolved = resolve(load_config("config/laptop/muloco.py", ["--model.flavor", "mixture-tiny", *words]))
    lines = describe_roles(resolved).splitlines()
    assert lines[1:7] == [
        "  matrix     muon         2 tensors              256 elements",
        "             layers.0.attention.wqkv.weight [16, 8] as [8, 8], 2 of [4, 8]",
        "  matrix     muon         2 tensors              128 elements",
        "             layers.0.attention.wo.weight [8, 8] as 2 of [4, 8]",
        "  matrix     muon         2 tensors              288 elements",
        "             layers.0.moe.experts.w1 [3, 6, 8] as 3 of [6, 8]",
    ]
    assert "  router     adamw        2 tensors               48 elements" in lines
    assert all(len(line) <= WIDTH for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("role_of lm_hed=matrix", "role_of: 'lm_hed' is in the name of no parameter; such a name is tok_embeddings"),
        ("role_of lm_head=matrx", "unknown role 'matrx': did you mean 'matrix'"),
        ("role_of lm_head", "optimizer.role_of takes entries PATTERN=ROLE; got lm_head"),
        ("role_of norm=matrix", "norm.weight of shape [8] is no matrix, which muon takes; give it the role scalar"),
        (
            "split wqkv=5,3,9",
            "layers.0.attention.wqkv.weight of shape [16, 8] has 16 outputs, which are not a multiple",
        ),
        ("split wqkv=5,0", "optimizer.split takes numbers of rows, such as 64 or 64,32,32; got 5,0"),
        ("split conv=4,4", "split: 'conv' is in the name of no matrix"),
        ("per_head wo=3", "has a part of 8 outputs, which are not a multiple of per_head 3"),
        ("other.rule muon", "optimizer.other.rule muon: these are no matrices"),
    ],
)
def test_choices_that_do_not_fit_are_refused_before_the_run(mixture: Flavor, words: str, message: str) -> None:
    name, value = words.split()
    config = load_config("config/laptop/muloco.py", ["--model.flavor", "mixture-tiny", f"--optimizer.{name}", value])
    with pytest.raises(UserError) as refusal:
        resolve(config)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_sgd_knows_no_matrices(mixture: Flavor) -> None:
    words = ["--optimizer.name", "SGD", "--optimizer.split", "wqkv=8,4,4"]
    with pytest.raises(UserError, match="SGD steps all parameters alike and does not know optimizer.split"):
        resolve(load_config("config/laptop/muloco.py", ["--model.flavor", "mixture-tiny", *words]))
    assert (
        stepped(mixture, dict.fromkeys(ALGORITHMS, "sgd"), Choices())[0].matrices("layers.0.moe.experts.w1")
        == "[3, 6, 8]"
    )
