"""Assigns devices and threads of this machine to the workers, and chooses the backend of the outer exchange."""

import os
from collections.abc import Mapping
from importlib.metadata import version

from muloco.cores import usable_cores
from muloco.errors import UserError
from muloco.launch.placement.spec import (
    HostSpec,
    Placement,
    allocator_settings,
    described,
    refuse_what_needs_cuda,
    threads,
)
from muloco.settings.config import ResolvedConfig


def place_here(config: ResolvedConfig) -> Placement:
    """Spreads the workers over the CUDA devices of this machine, or over its cores where it has none. Raises UserError
    if workers of several ranks need more devices than there are."""
    count = _cuda_devices()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",")[:count] if visible else [str(device) for device in range(count)]
    return place_on_devices(config, devices=devices, cores=usable_cores(), environment=os.environ)


def _cuda_devices() -> int:
    if version("torch").endswith("+cpu"):  # a build without CUDA, which is not imported only to learn that
        return 0
    import torch

    return torch.cuda.device_count()


def place_on_devices(
    config: ResolvedConfig, *, devices: list[str], cores: int, environment: Mapping[str, str]
) -> Placement:
    """`place_here` on a machine with these CUDA devices (as CUDA_VISIBLE_DEVICES names them) and CPU cores."""
    workers, ranks = config.worker_processes, config.ranks_per_worker
    common = {"OMP_NUM_THREADS": threads(environment, cores=cores, ranks=workers * ranks)}
    chosen = config.fault_tolerance.process_group
    what, group = described(config), "gloo"
    environments = [common] * workers
    if not devices:
        refuse_what_needs_cuda(config, "this machine")
        each = common["OMP_NUM_THREADS"]
        description = f"{what} on the CPU: {cores} cores, {each} thread{'s' * (each != '1')} a rank, gloo"
    elif len(devices) >= workers * ranks:
        slices = [devices[worker * ranks : (worker + 1) * ranks] for worker in range(workers)]
        group = "nccl" if chosen == "auto" else chosen
        description = f"{what} on {workers * ranks} of {len(devices)} CUDA devices, {group}"
    elif ranks > 1:
        raise UserError(
            f"{what} need {workers * ranks} CUDA devices, this machine has {len(devices)}; lower "
            "fault_tolerance.group_size or parallelism.*_degree (workers of one rank can share a device)"
        )
    elif chosen == "nccl":
        raise UserError(
            f"fault_tolerance.process_group nccl needs a device for each of the {workers} workers, this machine "
            f"has {len(devices)}; use gloo, which lets workers share"
        )
    else:
        slices = [[devices[worker % len(devices)]] for worker in range(workers)]
        description = f"{what} share {len(devices)} CUDA device{'s' * (len(devices) > 1)}, gloo"
    if devices:
        common |= allocator_settings(environment)
        environments = [{**common, "CUDA_VISIBLE_DEVICES": ",".join(part)} for part in slices]
    return Placement(
        hosts=tuple(HostSpec(environment=environment) for environment in environments),
        lighthouse=HostSpec(),
        process_group=group,
        description=description,
    )
