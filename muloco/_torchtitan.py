"""The only module of muloco that imports torchtitan (0.3.0).

It does two things. It prepares torchtitan for torch 2.11 to 2.13 and for machines without an accelerator, before any
other part of torchtitan is imported; and it re-exports, in one list, everything of torchtitan that muloco uses. Each
patch below says why it is needed, and is applied only if torch lacks what it provides.
`tests/test_torchtitan_gate.py` tests each patch, and fails as soon as one is no longer needed.
"""

import functools
import importlib
import inspect
import os
import resource
import sys
import types
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import spmd_types as spmd  # torchtitan's notation of layouts, a package of its own
import torch
import torch.distributed
import torch.distributed.fsdp
import torch.distributed.pipelining.schedules as schedules
import torchtitan.tools.utils as _utils
from torch.nn.attention import flex_attention

MODELS = "torchtitan.models"
"""torchtitan's package of models."""


class _CpuDeviceModule(types.ModuleType):
    """`torch.cpu` with the few functions of `torch.cuda` that torchtitan calls on its device module."""

    def __getattr__(self, name: str):
        return getattr(torch.cpu, name)

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def set_device(device: torch.device) -> None:
        pass

    @staticmethod
    def get_device_name(device: torch.device | None = None) -> str:
        return "CPU"

    @staticmethod
    def get_device_properties(device: torch.device | None = None) -> SimpleNamespace:
        return SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    @staticmethod
    def memory_stats(device: torch.device | None = None) -> dict[str, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"active_bytes.all.peak": peak, "reserved_bytes.all.peak": peak, "num_alloc_retries": 0, "num_ooms": 0}

    @staticmethod
    def empty_cache() -> None:
        pass

    @staticmethod
    def reset_peak_memory_stats() -> None:
        pass


def _use_cpu() -> None:
    """torchtitan takes CUDA for granted where it finds no accelerator; point it at the CPU instead."""
    # DTensor's random numbers are wrong on CPU meshes; muloco.model does not use them
    warnings.filterwarnings("ignore", message="DTensor .* may not have complete support on cpu device mesh")
    # torchtitan's router asks for fp32 in a way that a CPU does not know; it computes in fp32 all the same
    warnings.filterwarnings("ignore", message="In CPU autocast, but the target dtype is not supported")
    _utils.device_type, _utils.device_module = "cpu", _CpuDeviceModule("muloco_cpu")
    _utils.get_local_device = lambda: torch.device("cpu")
    _utils.get_peak_flops = lambda device_name: 1e12  # torchtitan divides by it; muloco reports no MFU on a CPU


def _provide_set_timeout() -> None:
    """torchtitan 0.3.0 calls `torch.distributed.set_timeout`; torch 2.13.0 has it under a private name only."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    torch.distributed.set_timeout = _set_pg_timeout  # type: ignore[attr-defined]


def _provide_mesh_dims() -> None:
    """torchtitan 0.3.0 imports `DataParallelMeshDims`, which torch 2.11 does not have. The SPMD backend
    `partial_dtensor`, which muloco uses, does not use it."""
    torch.distributed.fsdp.DataParallelMeshDims = type("DataParallelMeshDims", (), {})  # type: ignore


def _compiled_when_called(function: Callable, **options) -> Callable:
    """`torch.compile(function, **options)`, which imports inductor, but not before the first call."""
    compiled = functools.cache(lambda: torch.compile(function, **options))
    return functools.wraps(function)(lambda *args, **kwargs: compiled()(*args, **kwargs))


_TEXT = "torchtitan.hf_datasets.text_datasets"


def _text_config(**options):
    """The config of torchtitan's loader of text, which is imported for it."""
    return importlib.import_module(_TEXT).HuggingFaceTextDataLoader.Config(**options)


def _import_trainer() -> None:
    """Imports torchtitan's trainer without packages that take a third of a worker's start and are not used.

    The default loader of torchtitan's validator imports Hugging Face's datasets and pandas; muloco gives the validator
    its own loader. torchtitan compiles FlexAttention when it is imported, which imports inductor; on a CPU the model
    has dense attention.
    """
    absent, compile_ = _TEXT not in sys.modules, torch.compile
    if absent:
        sys.modules[_TEXT] = loader = types.ModuleType(_TEXT)
        loader.HuggingFaceTextDataLoader = SimpleNamespace(Config=_text_config)  # type: ignore
    if not torch.accelerator.is_available():
        torch.compile = _compiled_when_called  # type: ignore
    try:
        importlib.import_module("torchtitan.trainer")
    finally:
        torch.compile = compile_
        if absent:
            del sys.modules[_TEXT]


def _provide_steps_of_microbatches() -> None:
    """torchtitan 0.3.0 gives the schedule of a pipeline its microbatches, as `arg_mbs`, `kwarg_mbs` and `target_mbs`.
    `step` of torch 2.13 takes a whole batch only, which it divides itself; what follows is the same."""

    def of_microbatches(step: Callable) -> Callable:
        @functools.wraps(step)
        def steps(
            self,
            *args,
            arg_mbs=None,
            kwarg_mbs=None,
            target_mbs=None,
            losses=None,
            loss_kwargs=None,
            return_outputs=True,
            **kwargs,
        ):
            if kwarg_mbs is None:
                kwargs |= {"losses": losses, "loss_kwargs": loss_kwargs, "return_outputs": return_outputs}
                return step(self, *args, **kwargs)
            for stage in [self._stage] if isinstance(self, schedules.PipelineScheduleSingle) else self._stages:
                stage.has_backward = self._has_backward
                stage.clear_runtime_states()
            self._step_microbatches(
                arg_mbs, kwarg_mbs, target_mbs, losses, return_outputs=return_outputs, loss_kwargs=loss_kwargs
            )

        return steps

    for kind in (schedules.PipelineScheduleSingle, schedules.PipelineScheduleMulti):
        kind.step = of_microbatches(kind.step)  # type: ignore[method-assign]


_A100_FLOPS = 312e12
"""The peak FLOP/s that torchtitan assumes for accelerators that it does not know."""

if not torch.accelerator.is_available():
    _use_cpu()
if not hasattr(torch.distributed, "set_timeout"):
    _provide_set_timeout()
if not hasattr(torch.distributed.fsdp, "DataParallelMeshDims"):
    _provide_mesh_dims()
if "arg_mbs" not in inspect.signature(schedules.PipelineScheduleSingle.step).parameters:
    _provide_steps_of_microbatches()
_import_trainer()


import torchtitan.distributed.utils as _distributed
import torchtitan.models.common.attention as _attention
from torchtitan.components.checkpointer import BaseCheckpointManager
from torchtitan.components.checkpointer.base import ModelWrapper
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss, ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from torchtitan.components.tokenizer import HuggingFaceTokenizer
from torchtitan.components.validate import Validator
from torchtitan.config.configs import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.distributed.cudagraph import CUDAGraphInputSpec
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models import _supported_models
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import FlexAttention, VarlenAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.decoder_sharding import dense_activation_placement, dense_param_placement, norm_config
from torchtitan.models.common.linear import ScaledBiasRowwiseLinear
from torchtitan.models.common.moe import GroupedExperts, MoE
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import RoPE
from torchtitan.models.llama3 import Llama3Model, parallelize_llama
from torchtitan.models.llama3.model import Llama3TransformerBlock
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.protocols.module import Module
from torchtitan.protocols.sharding import ShardingConfig
from torchtitan.trainer import Trainer

SPMD_BACKEND = "partial_dtensor"
"""How torchtitan shards a model. Its default needs a newer torch than 2.13."""
_distributed.set_spmd_backend(SPMD_BACKEND)  # for models that are built outside of its trainer, which sets it, too


def _mask_always_separated() -> None:
    """torchtitan 0.3.0 calls `create_block_mask` with `separate_full_blocks`. torch 2.11 has no such argument, and
    always separates full blocks."""
    create = flex_attention.create_block_mask

    def create_block_mask(*args, separate_full_blocks: bool, **kwargs):
        if not separate_full_blocks:
            raise NotImplementedError("torch 2.11 cannot mix full and partial blocks of an attention mask")
        return create(*args, **kwargs)

    _attention._compiled_create_block_mask = torch.compile(create_block_mask)


if "separate_full_blocks" not in inspect.signature(flex_attention.create_block_mask).parameters:
    _mask_always_separated()


def model_names() -> list[str]:
    """Returns the names of the models that torchtitan comes with, in alphabetical order."""
    return sorted(_supported_models)


def model_sizes(model: str) -> list[str]:
    """Returns the names of the sizes (torchtitan's flavors) of a model, in torchtitan's order.

    Raises:
        ModuleNotFoundError: the model needs a package that is not installed.
    """
    module = importlib.import_module(f"{MODELS}.{model}")
    (sizes,) = [value for name, value in vars(module).items() if name.endswith("_configs") and isinstance(value, dict)]
    return list(sizes)


def model_spec(model: str, size: str) -> ModelSpec:
    """Returns torchtitan's specification of a size of a model, with FlexAttention where the model has a choice. Raises
    ModuleNotFoundError as `model_sizes`."""
    registry = importlib.import_module(f"{MODELS}.{model}").model_registry
    chosen = {"attn_backend": "flex"} if "attn_backend" in inspect.signature(registry).parameters else {}
    return registry(size, **chosen)


def device_type() -> str:
    """`cpu` or the accelerator's type (`cuda`, ...): where torchtitan will put the model."""
    return _utils.device_type


def peak_flops() -> float | None:
    """Dense bf16 FLOP/s of this accelerator; None if torchtitan does not know it, or on a CPU."""
    if _utils.device_type == "cpu":
        return None
    name = _utils.device_module.get_device_name(_utils.device_module.current_device())
    known = _utils.get_peak_flops(name)
    assumed = known == _A100_FLOPS and "A100" not in name
    return None if assumed else known


def masks_can_be_replayed() -> bool:
    """Whether a CUDA graph that was recorded with one attention mask can be replayed with another one.

    In torch 2.11 the tensors in the function of a mask, for example the ends of documents, are not inputs of a graph.
    A replay would use those of the recorded batch.
    """
    ends = torch.zeros(1, dtype=torch.int64)
    block = torch.ones(1, 1, 1, dtype=torch.int32)
    mask = flex_attention.BlockMask.from_kv_blocks(block, block[None], mask_mod=lambda b, h, q, kv: q <= ends[kv])
    return any(leaf is ends for leaf in CUDAGraphInputSpec(mask).flatten(mask))


def loss_may_call_the_head() -> bool:
    """Whether a chunked loss may call the output head by itself. With FSDP2 of torch 2.11 the backward pass then
    crashes. Releases that support it also have `reset_iter_state`, which is needed after passes without a backward
    pass."""
    return hasattr(torch.distributed.fsdp.FSDPModule, "reset_iter_state")
