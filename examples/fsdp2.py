"""SRFT on a model that FSDP2 shards, over as many processes as torchrun starts.

    torchrun --nproc-per-node 2 examples/fsdp2.py

`fully_shard` comes before the optimizer. The prior was estimated on the whole network. Every process gives the same one
and SRFT keeps the part that belongs to its shard. Statistics are those of the whole tensors.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from small_task import make_task, sample_loss
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import srft_kernels as srft


def train() -> dict[str, torch.Tensor]:
    """Learn the new task on this process's shards, and return the whole weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    task = make_task()
    model = task.model.to(device)
    prior = srft.estimate_prior(model, sample_loss, task.old_batches(), progress=False)
    fully_shard(model, mesh=mesh)
    batches = task.batches()
    inner = torch.optim.AdamW(model.named_parameters(), lr=3e-3)
    optimizer = srft.SRFT(inner, prior=prior, strength=10.0, kappa=srft.CosineKappa(total_steps=len(batches)))
    rank, world = dist.get_rank(), dist.get_world_size()
    for points, labels in batches:
        optimizer.zero_grad()
        own = points.chunk(world)[rank].to(device), labels.chunk(world)[rank].to(device)
        sample_loss(model, own).mean().backward()
        optimizer.step()
    whole = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.state_dict().items()}
    if rank == 0:
        print(f"fsdp2: {world} processes, penalty of rank 0's shards {float(optimizer.penalty):.3g}")
    dist.barrier()  # the first process holds the store that the others need to the end
    dist.destroy_process_group()
    return whole


if __name__ == "__main__":
    train()
