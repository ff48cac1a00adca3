"""Check of FlexAttention in muloco's model."""

import importlib
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from muloco.gpu_check.bench import Bench, Figures, apart, expect

SEQUENCES = 2


def flex_attention(bench: Bench) -> Figures:
    """Compares a model that has FlexAttention in compiled blocks with the same model that has dense masks. fp32 comes
    last, since its kernels need the most shared memory. A rehearsal compares dense masks with themselves, since on a
    CPU there is nothing else."""
    length = bench.size(512, 64)
    flex, dense = (build(bench, length, dense=dense or bench.rehearsal) for dense in (False, True))
    dense.load_state_dict(flex.state_dict())
    if not bench.rehearsal:
        torch._dynamo.config.capture_scalar_outputs = True
        for layer in flex.layers.values():
            layer.compile(backend="inductor", fullgraph=True)
    tokens, positions = packed(bench, length)
    figures: Figures = {}
    for name, autocast, tolerance in (("bf16", True, 0.1), ("fp32", False, 0.01)):
        (logits, gradients), (other_logits, others) = (
            _forward_and_backward(model, tokens, positions, autocast=autocast) for model in (flex, dense)
        )
        worst = max(apart(gradients[name], others[name]) for name in others)
        figures[f"{name}_logits_apart"], figures[f"{name}_gradients_apart"] = apart(logits, other_logits), worst
        expect(worst < tolerance, f"in {name} gradients are {worst:.1e} apart; allowed are {tolerance}")
    return figures


def build(bench: Bench, length: int, *, dense: bool) -> Any:
    """Builds the laptop model, or in a rehearsal the smallest one, with the same weights in every call."""
    from muloco.model import spec

    importlib.import_module("torchtitan.distributed.utils").set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        model = spec(bench.size("laptop", "tiny"), seq_len=length, dense=dense).model.build()
    model.to_empty(device=bench.device)
    torch.manual_seed(0)
    with torch.no_grad():
        model.init_states()
    return model


def packed(bench: Bench, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns tokens and positions, both int64 [SEQUENCES, length], of sequences that hold several documents."""
    tokens = torch.randint(0, 2048, (SEQUENCES, length), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(length).repeat(SEQUENCES, 1)
    for row, cuts in enumerate(([length // 5, length // 4, length * 3 // 4], [5, 6, length - 12])):
        for cut in cuts:
            positions[row, cut:] -= positions[row, cut].item()
    return tokens.to(bench.device), positions.to(bench.device)


def _forward_and_backward(model, tokens, positions, *, autocast: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=autocast):
        logits = model(tokens, positions=positions, attention_masks=model.get_attention_masks(positions))
    cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
    gradients = {name: param.grad.clone() for name, param in model.named_parameters()}
    return logits.detach().float(), gradients
