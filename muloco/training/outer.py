"""The outer loop of a worker, built from its config."""

import errno
import math
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from muloco.errors import UserError
from muloco.model.flavors import flavor
from muloco.optim import Muon
from muloco.outer import OuterLoop, QuorumPolicy, RunProgress, StateTransfer, Transport, WorkerIdentity
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.fragment import Merging
from muloco.outer.loop.fragments import Fragment, by_modules, by_number
from muloco.outer.wire.network import is_loopback
from muloco.settings.compression import Compression as CompressionConfig
from muloco.settings.config import ResolvedConfig
from muloco.settings.fields import common_settings
from muloco.settings.outer import ResolvedOuterOptimizer
from muloco.training.environment import LIGHTHOUSE, secret_of

NOTHING_FUSED: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def build_outer_loop(
    config: ResolvedConfig,
    parameters: Mapping[str, torch.Tensor],
    transport: Transport,
    *,
    buffers: Mapping[str, torch.Tensor],
    data_position: Callable[[], str],
    transfer: StateTransfer,
    progress: RunProgress,
    merging: Merging,
) -> OuterLoop:
    """The outer loop over this rank's parameters, plain or DTensors, by name.

    Args:
        config: resolved; `fault_tolerance.replica_id` says which worker this is.
        buffers: this rank's buffers that workers average, by name.
        data_position: returns the worker's position in its data.
        transfer: hands its state to others and takes over theirs.
        merging: context in which the parameters of a fragment are written.
    """
    ft = config.fault_tolerance
    size = flavor(config.model.flavor)
    return OuterLoop(
        parameters,
        partial(build_outer_optimizer, config.outer_optimizer, fused=size.fused),
        transport,
        identity=WorkerIdentity(run=config.run.name, worker=ft.replica_id, workers=ft.group_size),
        quorum=QuorumPolicy(
            min_replica_size=ft.min_replica_size,
            straggler_timeout_seconds=ft.straggler_timeout_seconds,
            quorum_timeout_seconds=ft.quorum_timeout_seconds,
        ),
        progress=progress,
        sync_interval=ft.sync_steps,
        fragments=fragments_of(config, parameters),
        buffers=buffers,
        delay=ft.fragment_sync_delay,
        alpha=ft.fragment_update_alpha,
        learning_rate=outer_learning_rate(config),
        compression=build_compression(config.compression, parameters, tables=size.tables),
        settings=common_settings(config),
        device=torch.device("cpu") if config.outer_optimizer.offload else None,
        data_position=data_position,
        transfer=transfer,
        merging=merging,
    )


def build_outer_optimizer(
    chosen: ResolvedOuterOptimizer,
    anchor: Mapping[str, torch.Tensor],
    *,
    fused: Mapping[str, tuple[int, ...]] = NOTHING_FUSED,
) -> torch.optim.Optimizer:
    """The outer optimizer for anchor tensors by name, fp32, plain or DTensors, which it moves in place.

    sgd: buf = momentum buf + g; theta -= lr (g + momentum buf) with Nesterov, else theta -= lr buf. At a constant lr
    this is the outer step of Algorithm 1 in arXiv 2505.23725. adamw: without weight decay. muon: on matrices, and adamw
    on all others; each matrix of the fused projections in `Flavor.fused` by itself.
    """
    if chosen.class_name == "sgd":
        return torch.optim.SGD(
            anchor.values(),
            lr=chosen.lr,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov and chosen.momentum > 0,
            foreach=False,
        )
    betas = (chosen.beta1, chosen.beta2)
    if chosen.class_name == "adamw":
        return torch.optim.AdamW(
            anchor.values(), lr=chosen.lr, betas=betas, eps=chosen.eps, weight_decay=0.0, foreach=False
        )
    return Muon(
        anchor.items(),
        lr=chosen.lr,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        betas=betas,
        eps=chosen.eps,
        symmetric_products="matmul",  # all workers must get the same bits
        split={pattern: rows for pattern, rows in fused.items() if any(re.search(pattern, name) for name in anchor)},
    )


def build_compression(
    chosen: CompressionConfig, parameters: Mapping[str, torch.Tensor], *, tables: Collection[str]
) -> Compression:
    """Returns the compression of the pseudogradients of these parameters by name, of which vectors are norms. Tables
    are the names of those with a row for each entry of the vocabulary."""
    norms = {name for name, tensor in parameters.items() if tensor.ndim == 1 and chosen.skip_norms}
    skipped = {name for name in parameters if name in tables and chosen.skip_embeddings}
    return Compression(
        codec=chosen.codec(),
        dense=frozenset(norms | skipped),
        reduce=chosen.reduce,
        error_feedback=chosen.error_feedback,
        error_decay=chosen.error_decay,
        error_alpha=chosen.error_alpha,
        error_gain=chosen.error_gain,
    )


def outer_learning_rate(config: ResolvedConfig) -> Callable[[int], float]:
    """The outer learning rate by inner step: from `lr` down to `min_lr_factor` of it at the end of the schedule."""
    outer, steps = config.outer_optimizer, config.schedule_steps
    lr, least = outer.lr, outer.min_lr_factor

    def at(step: int) -> float:
        left = 1 - min(step, steps) / steps
        fraction = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[outer.schedule]
        return lr if outer.schedule == "constant" else lr * (least + (1 - least) * fraction)

    return at


def build_transport(config: ResolvedConfig, group: InProcessGroup | None, device: torch.device) -> Transport:
    """Returns the transport of the worker `fault_tolerance.replica_id` of a resolved config: its end of the group in
    this process or, without one, torchft at the lighthouse of the environment."""
    ft = config.fault_tolerance
    if group is not None:
        return group.transport(ft.replica_id, device)
    from muloco.outer.wire.peer_group import GlooGroup, NCCLGroup
    from muloco.outer.wire.torchft import torchft_transport

    ranks = int(os.environ["WORLD_SIZE"])
    connect = {"gloo": GlooGroup, "nccl": NCCLGroup}[_process_group(ft.process_group)]
    patience = timedelta(seconds=ft.quorum_timeout_seconds + 2 * ft.exchange_timeout_seconds)
    return torchft_transport(
        run=config.run.name,
        worker=ft.replica_id,
        min_replica_size=ft.min_replica_size,
        lighthouse=os.environ[LIGHTHOUSE],
        rank=int(os.environ["RANK"]),
        ranks=ranks,
        host=_own_host(ft.host, os.environ[LIGHTHOUSE]),
        secret=secret_of(config, os.environ),
        group=connect(timedelta(seconds=ft.exchange_timeout_seconds)),
        device=device,
        quorum_timeout=timedelta(seconds=ft.quorum_timeout_seconds),
        exchange_timeout=timedelta(seconds=ft.exchange_timeout_seconds),
        ranks_group=dist.new_group(backend="gloo", timeout=patience) if ranks > 1 else None,
    )


def fragments_of(config: ResolvedConfig, parameters: Mapping[str, torch.Tensor]) -> list[Fragment]:
    """Returns the names of the parameters of each fragment of a resolved config."""
    modules = config.fault_tolerance.module_fqns_per_model_fragment
    if modules is not None:
        return by_modules(list(parameters), [fragment.split(",") for fragment in modules])
    sizes = {name: tensor.numel() for name, tensor in parameters.items()}
    try:
        return by_number(sizes, config.fault_tolerance.num_fragments)
    except ValueError as error:  # the model has enough of them, but not each stage of a pipeline
        raise UserError(f"fault_tolerance.num_fragments: on this stage of the pipeline {error}") from None


def _own_host(chosen: str | None, lighthouse: str) -> str:
    """Returns the address at which others can reach this process: loopback if the lighthouse is there, else the host's
    name. An address that was chosen for the worker holds on its first node; a rank on another node uses the address of
    its interface towards that node."""
    if chosen is None:
        return "127.0.0.1" if is_loopback(str(urlsplit(lighthouse).hostname)) else socket.gethostname()
    try:
        socket.create_server((chosen, 0)).close()
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((chosen, 9))  # sends nothing
            return way.getsockname()[0]
    return chosen


def _process_group(chosen: str) -> str:
    if chosen == "auto":  # the launcher says gloo where workers share devices
        return "nccl" if torch.cuda.is_available() else "gloo"
    if chosen == "nccl" and not torch.cuda.is_available():
        raise UserError("fault_tolerance.process_group nccl needs CUDA devices, and this machine has none; use gloo")
    return chosen
