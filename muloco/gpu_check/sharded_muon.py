"""Compares Muon on a mesh of ranks with Muon on one rank. For torchrun: `-m muloco.gpu_check.sharded_muon REPLICAS
SHARDS`.

All ranks see the same batch, so that the mean gradient equals that of one rank. With SHARDS = 1 each rank has a plain
copy of the parameters, as under DDP, and the ranks share the work of the optimizer.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from muloco.gpu_check.bench import apart
from muloco.pytorch import Muon

STEPS = 5


def main(replicas: int, shards: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(0)
    linears = (nn.Linear(33, 65), nn.Linear(65, 40), nn.Linear(40, 64), nn.Linear(64, 100))
    alone = nn.Sequential(nn.Embedding(100, 33), *linears).to(device)
    model = copy.deepcopy(alone)
    if shards == 1:
        optimizer = Muon(model, process_group=dist.group.WORLD, lr=0.02, weight_decay=0.01)
    else:
        shape, names = ((shards,), None) if replicas == 1 else ((replicas, shards), ("replicate", "shard"))
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = Muon(model, lr=0.02, weight_decay=0.01)
    reference = Muon(alone, lr=0.02, weight_decay=0.01)
    for step in range(STEPS):
        tokens = torch.randint(100, (64,), generator=torch.Generator().manual_seed(step)).to(device)
        for network, stepped in ((model, optimizer), (alone, reference)):
            stepped.zero_grad()
            nn.functional.cross_entropy(network(tokens), (tokens + 1) % 100).backward()
            stepped.step()
    differences = []
    for (name, param), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        differences.append(apart(param.full_tensor() if isinstance(param, DTensor) else param, expected))
        if not differences[-1] < 5e-3:
            raise RuntimeError(f"{name} differs by {differences[-1]:.1e} from that of one rank")
    if dist.get_rank() == 0:
        sys.stdout.write(f"apart: {max(differences):.3e}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
