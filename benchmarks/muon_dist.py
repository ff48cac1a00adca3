"""torchtitan's DistMuon on the CPU, which it refuses: its streams and events are replaced by ones that do nothing, as
work on a CPU is done in order anyway. All else is as it is; what its streams would overlap is done in turn."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class _InOrder:
    """A stream or an event."""

    def __init__(self, **options: Any) -> None:
        pass

    def record(self, *others: Any) -> None:
        pass

    wait_event = wait_stream = record


def build(params: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """As torchtitan's recipes set it up for FSDP2: one owner a matrix, one bucket a layer."""
    from torchtitan.distributed.flex_shard import dist_muon
    from torchtitan.distributed.flex_shard.optimizer_reshard import BucketConfig, ComputeLayout, Owned

    device = SimpleNamespace(
        Stream=_InOrder,
        Event=_InOrder,
        stream=lambda stream: nullcontext(),
        current_stream=lambda device: _InOrder(),
    )
    torch.get_device_module = lambda *of: device  # type: ignore[assignment]
    dist_muon.DistMuon._validate_parameter_storage = lambda self: torch.device("cpu")  # type: ignore[method-assign]
    names = [name for name, _ in params]
    layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return dist_muon.build_dist_muon(
        [{"params": [param for _, param in params], "param_names": names}],
        compute_sharding_by_fqn={name: ComputeLayout({"dp_shard": Owned()}) for name in names},
        bucket_configs=[BucketConfig(patterns=(f"{layer}.*",)) for layer in layers],
        lr=0.02,
        weight_decay=0.01,
        momentum=0.9,
        nesterov=False,
    )
