"""Forward and backward passes that are recorded once and replayed, and the conditions of CUDA graphs on all other
code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch.nn.attention import flex_attention
from torch.utils._pytree import tree_flatten, tree_unflatten

from muloco._torchtitan import CUDAGraphInputSpec, FlexAttention, masks_can_be_replayed
from muloco.model import spec
from muloco.resolve import resolve
from muloco.settings.load import load_config
from muloco.training import titan_config
from muloco.training.titan_config import records_cuda_graphs

from .one_worker import losses, train

TORCH = Version(torch.__version__).release
SYNCED = {"fault_tolerance__sync_steps": 2}
RUNS = {
    "muloco": {**SYNCED, "training__max_norm": 0.1, "activation_checkpoint__mode": "full"},
    "muloco_streaming": {"fault_tolerance__sync_steps": 6, "fault_tolerance__fragment_update_alpha": 0.5},
    "gpa": {},
}


class Graph:
    """Behaves as torchtitan's CUDA graph, on a CPU: from the second call on, the inputs lie where those of the second
    call lay, and nothing that the pass reads or writes may have moved."""

    def __init__(self, forward_backward: Callable[..., torch.Tensor]):
        self._forward_backward = forward_backward
        self._parameters: list[torch.nn.Parameter] = [
            parameter for part in forward_backward.__self__.model_parts for parameter in part.parameters()
        ]
        self.calls = 0

    def _addresses(self) -> list[tuple[int, int]]:
        return [
            (parameter.to_local().data_ptr(), parameter.grad.to_local().data_ptr()) for parameter in self._parameters
        ]

    def __call__(self, *inputs: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls == 1:
            return self._forward_backward(*inputs)
        tensors, spec = tree_flatten(inputs)
        if self.calls == 2:
            self._inputs, self._spec, self._recorded = [tensor.clone() for tensor in tensors], spec, self._addresses()
        assert spec == self._spec and self._addresses() == self._recorded
        for static, tensor in zip(self._inputs, tensors, strict=True):
            assert (static.shape, static.dtype) == (tensor.shape, tensor.dtype)
            static.copy_(tensor)
        return self._forward_backward(*tree_unflatten(self._inputs, self._spec))


@pytest.mark.parametrize("recipe", RUNS)
def test_a_run_keeps_everything_where_it_was_recorded(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncs, overlapped and merged ones, GPA's average, validation with other weights, clipping: the losses are those
    of the run without a graph, to the bit."""
    plain = losses(train(tmp_path / "plain", monkeypatch, recipe, **RUNS[recipe]))
    graphs: list[Graph] = []
    monkeypatch.setattr(titan_config, "records_cuda_graphs", lambda config: True)
    monkeypatch.setattr("torchtitan.trainer.wrap_with_cuda_graph", lambda f: graphs.append(Graph(f)) or graphs[-1])
    recorded = losses(train(tmp_path / "recorded", monkeypatch, recipe, **RUNS[recipe]))
    assert [graph.calls for graph in graphs] == [12]
    assert recorded == plain and len(plain) > 6


def mask_of(*rows: list[int]) -> Any:
    """FlexAttention's mask of documents that begin where positions are 0."""
    config = spec("tiny", seq_len=len(rows[0])).model
    for layer in config.layers:
        layer.attention.inner_attention = FlexAttention.Config()
    with torch.device("meta"):
        model = config.build()
    with torch._dynamo.config.patch(disable=True):
        return model.get_attention_masks(torch.tensor(rows))


def seen(mask: Any) -> list[list[list[bool]]]:
    """Returns the keys that each query of each row attends to."""
    b, q, k = torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(4), indexing="ij")
    return mask.mask_mod(b, torch.tensor(0), q, k).tolist()


@pytest.mark.skipif(TORCH < (2, 12), reason="torch 2.11 replays with the documents of the batch that was recorded")
def test_a_graph_sees_the_documents_of_each_batch() -> None:
    recorded, later = mask_of([0, 1, 2, 3], [0, 1, 0, 1]), mask_of([0, 0, 1, 0], [0, 1, 2, 0])
    spec = CUDAGraphInputSpec(recorded)
    replayed = spec.unflatten([leaf.clone() for leaf in spec.flatten(later)])
    assert seen(replayed) == seen(later) != seen(recorded)
    assert masks_can_be_replayed()


def test_masks_that_hide_their_documents_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch 2.11, where a mask's function is one of the things that stay."""
    tensors = ("kv_num_blocks", "kv_indices")
    monkeypatch.setattr(
        flex_attention.BlockMask, "_flatten", lambda mask: (tuple(getattr(mask, name) for name in tensors), ())
    )
    assert not masks_can_be_replayed()


@pytest.mark.parametrize(
    ("changes", "device", "recorded"),
    [
        ({}, "cuda", True),
        ({}, "cpu", False),
        ({"training.disable_cuda_graphs": True}, "cuda", False),
        ({"fault_tolerance.transport": "in_process"}, "cuda", False),
        ({"fault_tolerance.transport": "in_process", "fault_tolerance.group_size": 1}, "cuda", True),
    ],
)
def test_when_they_are_recorded(
    changes: dict[str, Any], device: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(titan_config, "device_type", lambda: device)
    monkeypatch.setattr(titan_config, "masks_can_be_replayed", lambda: True)
    config = load_config(
        "config/laptop/muloco.py", [w for name, value in changes.items() for w in (f"--{name}", str(value))]
    )
    assert records_cuda_graphs(resolve(config)) == recorded
    monkeypatch.setattr(titan_config, "masks_can_be_replayed", lambda: False)
    assert not records_cuda_graphs(resolve(config))
