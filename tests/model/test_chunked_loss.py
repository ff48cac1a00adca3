"""The loss in chunks of a sequence equals the whole loss on several layouts of ranks, and takes less memory."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from muloco._torchtitan import BaseLoss, CompileConfig, loss_may_call_the_head
from muloco.model.decoder import Head
from muloco.model.flavors import aliases, flavor
from muloco.sharding import gather
from muloco.training.titan_config import loss_config
from muloco.training.validation import _end_passes

from .layouts import LENGTH, ROWS, Layout, assert_close, build, packed_batch

pytestmark = pytest.mark.skipif(not loss_may_call_the_head(), reason="torch 2.11 crashes with a chunked loss")
LARGE = 2**17
WHOLE, CHUNKED = loss_config(vocabulary=2048, seq_len=LENGTH), loss_config(vocabulary=LARGE, seq_len=LENGTH)
TOLERANCE = {"float32": 1e-5, "autocast": 2e-2, "bfloat16": 3e-2}
"""Allowed difference of a gradient, as a share of its largest element."""
LAYOUTS: list[tuple[Layout, str]] = [
    ((1, 1, 1), "autocast"),
    ((2, 1, 1), "float32"),
    ((2, 1, 1), "bfloat16"),
    ((1, 1, 2), "float32"),
    ((1, 2, 1), "autocast"),
]


def test_vocabularies_of_papers_models_are_chunked_and_those_of_laptops_are_not() -> None:
    kinds = {
        name: type(loss_config(vocabulary=flavor(name).vocabulary, seq_len=2048))
        for name in aliases()
        if "/" not in name
    }
    assert {alias for alias, kind in kinds.items() if kind is type(WHOLE)} == {"tiny", "small", "laptop"}
    assert kinds["150M"] is kinds["15B"] is type(CHUNKED) is not type(WHOLE)


@pytest.mark.parametrize(("seq_len", "chunks"), [(2048, 8), (2052, 4), (100, 4), (6, 2)])
def test_chunks_divide_a_sequence(seq_len: int, chunks: int) -> None:
    config: Any = loss_config(vocabulary=LARGE, seq_len=seq_len)
    assert config.num_chunks == chunks
    assert type(loss_config(vocabulary=LARGE, seq_len=seq_len + 1)) is type(WHOLE)


def test_a_torch_that_would_crash_gets_the_whole_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FSDPModule, "reset_iter_state")
    assert not loss_may_call_the_head()
    assert type(loss_config(vocabulary=LARGE, seq_len=2048)) is type(WHOLE)


def step(config: BaseLoss.Config, layout: Layout, precision: str) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch, as torchtitan's trainer asks for them, and the loss without gradients."""
    model = build(layout, precision=precision)
    loss_of: Any = config.build(compile_config=CompileConfig(enable=False))
    if config is CHUNKED:
        loss_of.set_lm_head(model.lm_head)
        model._skip_lm_head = True
    tokens, positions, labels = packed_batch()
    shares, share = layout[0] * layout[1], dist.get_rank() // layout[2]
    rows = slice(share * ROWS // shares, (share + 1) * ROWS // shares)

    def loss() -> torch.Tensor:
        masks = model.get_attention_masks(positions[rows])
        return loss_of(model(tokens[rows], positions[rows], masks), labels[rows], torch.tensor(ROWS * LENGTH))[0]

    for _ in range(2):  # the second time on top of the first one's gradients
        trained = loss()
        trained.backward()
    gradients = {name: gather(parameter.grad).float() for name, parameter in model.named_parameters()}
    for _ in range(2):
        with torch.no_grad():
            validated = loss()
    _end_passes([model])  # as after every validation
    assert model._get_fsdp_state()._state_ctx.iter_forward_root is None, "the next pass is no part of this one"
    model.zero_grad()
    loss().backward()
    for name, parameter in model.named_parameters():
        assert_close(2 * gather(parameter.grad), gradients[name], 1e-2, f"{layout}: {name} after a validation")
    return float(trained.detach()), float(validated), gradients


def check(rank: int, store: str) -> None:
    for layout, precision in LAYOUTS:
        world = layout[0] * layout[1] * layout[2]
        if rank >= world:
            continue
        name = f"{store}-{precision}-{'-'.join(map(str, layout))}"
        dist.init_process_group("gloo", init_method=name, rank=rank, world_size=world, timeout=timedelta(seconds=60))
        whole, chunked = step(WHOLE, layout, precision), step(CHUNKED, layout, precision)
        assert chunked[:2] == pytest.approx(whole[:2], rel=1e-6 if precision == "float32" else 1e-4)
        assert list(chunked[2]) == list(whole[2])
        for parameter, gradient in whole[2].items():
            what = f"{layout}, {precision}: gradient of {parameter}"
            assert_close(chunked[2][parameter], gradient, TOLERANCE[precision], what)
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_loss_and_gradients_are_those_of_the_whole_loss(spawn_ranks) -> None:
    spawn_ranks(check, 2)


def peak_bytes(config: BaseLoss.Config, hidden: torch.Tensor, labels: torch.Tensor, head: nn.Module) -> int:
    """Returns the peak bytes that head and loss allocate, forward and backward, by torch's profiler."""
    loss_of: Any = config.build(compile_config=CompileConfig(enable=False))
    head.zero_grad()
    hidden = hidden.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        if config is CHUNKED:
            loss_of.set_lm_head(head)
            loss, _ = loss_of(hidden, labels, torch.tensor(labels.numel()))
        else:
            loss, _ = loss_of(head(hidden), labels, torch.tensor(labels.numel()))
        loss.backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("autocast", [False, True])
def test_the_logits_of_a_batch_are_never_there_at_once(autocast: bool) -> None:
    vocabulary, width, shape = 8192, 16, (4, 8 * 16)
    head = Head.Config(in_features=width, out_features=vocabulary, autocast=autocast).build()
    hidden, labels = torch.randn(*shape, width), torch.randint(0, vocabulary, shape)
    assert head(hidden).dtype == (torch.bfloat16 if autocast else torch.float32), "also outside of the model"
    logits = 4 * labels.numel() * vocabulary
    whole, chunked = (peak_bytes(config, hidden, labels, head) for config in (WHOLE, CHUNKED))
    assert whole > 2 * logits, "logits and their gradients"
    assert chunked < whole / 4
