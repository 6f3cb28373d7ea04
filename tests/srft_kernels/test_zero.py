"""ZeRO on two processes: torch's ``ZeroRedundancyOptimizer`` inside of the wrapper, and the wrapper inside of it."""

from __future__ import annotations

import copy
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

import srft_kernels as srft

WORLD, STEPS = 2, 5
# A wrapper that ZeRO is around knows its own share of the tensors alone, so means are over each tensor.
OPTIONS: dict[str, Any] = {"kappa": 0.5, "damping": "rank", "normalize": "tensor"}


class OwnAdamW(AdamW):
    """AdamW as an optimizer that the wrapper does not know, so that its own step is taken."""


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def prior_of(model: nn.Module) -> dict[Tensor, Tensor]:
    return {p: torch.linspace(0.1, 2, p.numel(), dtype=torch.float64).reshape(p.shape) for p in model.parameters()}


def batch(step: int, rank: int, world: int) -> Tensor:
    """Return this process's share of eight samples."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x[rank::world]


def train(model: nn.Module, optimizer: Any, steps: range, rank: int = 0, world: int = 1) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(batch(step, rank, world)).square().mean().backward()
        optimizer.step()


def around(kind: type[AdamW], model: nn.Module) -> srft.SRFT:
    return srft.SRFT(kind(model.parameters(), lr=1e-2), prior_of(model), **OPTIONS)


def check_inside(rank: int) -> None:
    """Check that the processes share the averages out by parameter, while anchors and priors are everywhere."""
    whole = network()
    train(whole, around(OwnAdamW, whole), range(STEPS))
    model = network()
    parallel = DistributedDataParallel(model)
    sharing = ZeroRedundancyOptimizer(model.parameters(), OwnAdamW, lr=1e-2)
    train(parallel, srft.SRFT(sharing, prior_of(model), **OPTIONS), range(STEPS), rank, WORLD)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert 0 < len(sharing.optim.state) < len(list(model.parameters()))


def check_outside(rank: int) -> None:
    """Check that anchors and priors are shared out with the averages."""
    whole = network()
    train(whole, around(AdamW, whole), range(STEPS))
    model = network()
    prior = prior_of(model)

    def make(params: Any, **options: Any) -> srft.SRFT:
        held = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
        return srft.SRFT(AdamW(params, **options), {p: prior[p] for p in held}, **OPTIONS)

    parallel = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), make, lr=1e-2)
    train(parallel, optimizer, range(3), rank, WORLD)
    optimizer.consolidate_state_dict(to=0)
    saved = [copy.deepcopy(optimizer.state_dict()) if rank == 0 else None]  # whose tensors are the live ones
    dist.broadcast_object_list(saved)
    again = network()
    again.load_state_dict(model.state_dict())
    prior = prior_of(again)
    resumed = ZeroRedundancyOptimizer(again.parameters(), make, lr=1e-2)
    resumed.load_state_dict(saved[0])
    train(DistributedDataParallel(again), resumed, range(3, STEPS), rank, WORLD)
    train(parallel, optimizer, range(3, STEPS), rank, WORLD)
    for p, q, r in zip(model.parameters(), whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
        assert torch.equal(p, r)
    assert 0 < sum("anchor" in s for s in optimizer.optim.state.values()) < len(list(model.parameters()))


def process(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    try:
        check_inside(rank)
        check_outside(rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_zero_gives_the_weights_of_one_process_and_resumes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(port,), nprocs=WORLD)
