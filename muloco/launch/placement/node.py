"""The program that `muloco train` runs on a node of a SLURM job, by srun: it describes the node, or starts a worker.

    python -m muloco.launch.placement.node look
    python -m muloco.launch.placement.node run DEVICES COMMAND ...

Needs nothing but Python, and torch where there are devices.
"""

import fcntl
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

from muloco.errors import UserError

MARK = "muloco.launch.placement.node: "
"""Prefix of this program's answers, which tells them from the output of a node's profile or of a container."""
_SIOCGIFADDR = 0x8915


def main(argv: Sequence[str]) -> None:
    if argv[0] == "look":
        sys.stdout.write(f"{MARK}{json.dumps(look(os.environ))}\n")
    else:
        devices = [int(device) for device in argv[1].split(",") if device]
        run(devices, list(argv[2:]))


def look(environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns name, address, interface and number of GPUs of this node, as a task of the job sees them."""
    chosen = environment.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    interfaces = _interfaces()
    for name in ("SLURMD_NODENAME", *([] if chosen else ["SLURM_LAUNCH_NODE_IPADDR"])):
        if name not in environment:
            _refuse(f"srun has not set {name} here")
    address = interfaces.get(chosen) if chosen else _address_towards(environment["SLURM_LAUNCH_NODE_IPADDR"])
    interface = next((name for name, of in interfaces.items() if of == address), None)
    if address is None or interface is None:
        there = ", ".join(f"{name} ({of})" for name, of in interfaces.items())
        what = f"GLOO_SOCKET_IFNAME {chosen}" if chosen else f"the one with address {address}"
        _refuse(f"no network interface with an IPv4 address is {what}; there are {there}")
    return {
        "name": environment["SLURMD_NODENAME"],
        "address": address,
        "interface": interface,
        "devices": read_count(environment.get("SLURM_GPUS_ON_NODE", "")),
    }


def read_count(gpus: str) -> int:
    """SLURM_GPUS_ON_NODE: a number, or with a kind before it, such as `gpu:a100:4`."""
    numbers = re.findall(r"(?:^|:)(\d+)(?=$|\(|,)", gpus)
    return sum(map(int, numbers))


def run(devices: Sequence[int], command: list[str]) -> NoReturn:
    """Becomes a worker's command, with these of the job's devices on this node, counted from 0."""
    choose_devices(devices, os.environ)
    if devices:
        _insist_on_cuda(len(devices))
    os.environ["PET_NODE_RANK"] = os.environ["SLURM_NODEID"]  # torchrun's --node-rank
    # SLURM sends a signal to all processes of a step, at any time: torchrun is not to hear it, its ranks are once they
    # listen (`muloco.training.stop_request`, `muloco.training.pulse`).
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    os.execvp(command[0], command)


def choose_devices(devices: Sequence[int], environment: MutableMapping[str, str]) -> None:
    """Makes only these visible, of those that SLURM has made visible."""
    names = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[d] if names != [""] else str(d) for d in devices)


def _insist_on_cuda(count: int) -> None:
    import torch

    if torch.cuda.device_count() < count:
        _refuse(
            f"SLURM gives this worker devices {os.environ['CUDA_VISIBLE_DEVICES']}, torch {torch.__version__} sees "
            f"{torch.cuda.device_count()}: is it a build for CUDA, and is the driver there? To train on the CPU of "
            "nodes with GPUs: export CUDA_VISIBLE_DEVICES= (empty) before `muloco train`"
        )


def _interfaces() -> dict[str, str]:
    """IPv4 addresses by name of the interface."""
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def _address_towards(other: str) -> str:
    """This node's own address on the way to another one's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((other, 9))  # sends nothing
        return way.getsockname()[0]


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"muloco: node {os.environ.get('SLURMD_NODENAME')}: {why}\n")
    sys.exit(UserError.exit_status)


if __name__ == "__main__":
    main(sys.argv[1:])
