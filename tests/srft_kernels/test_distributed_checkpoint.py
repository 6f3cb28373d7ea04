"""A run that two processes saved by torch.distributed.checkpoint goes on in one, two or three, to the same weights."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, NAdam, Optimizer, RMSprop

import srft_kernels as srft
from tracker.train.distributed import leave

dist = pytest.importorskip("torch.distributed")
if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

import torch.distributed.checkpoint as dcp  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from torch.distributed.checkpoint import state_dict as of_state  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

STEPS, SAVED_AT, BATCH = 6, 3, 12
INNERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "fused AdamW": (AdamW, {"lr": 1e-2}),
    "fused SGD": (SGD, {"lr": 1e-2, "momentum": 0.9}),
    "around NAdam": (NAdam, {"lr": 1e-2}),
    "around RMSprop": (RMSprop, {"lr": 1e-2, "momentum": 0.9}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(11, 24), nn.GELU(), nn.Linear(24, 5)).double()


def wrapped(name: str, model: nn.Module, prior: dict[str, Tensor], anchor: dict[str, Tensor]) -> srft.SRFT:
    kind, options = INNERS[name]
    inner = kind(model.named_parameters(), **options)  # type: ignore[call-arg]
    return srft.SRFT(inner, prior=prior, anchor=anchor, kappa=srft.CosineKappa(total_steps=STEPS), damping="rank")


def advance(model: nn.Module, optimizer: Optimizer, steps: range, rank: int, world: int) -> None:
    """Take steps in which every process takes its share of each batch.

    The mean over processes is that over the batch.
    """
    for step in steps:
        inputs = torch.randn(BATCH, 11, generator=torch.Generator().manual_seed(step)).double()
        own = inputs.chunk(world)[rank]
        optimizer.zero_grad()
        (model(own) - own[:, :5]).square().mean().backward()
        optimizer.step()


def run(rank: int, world: int, port: int, folder: Path, saves: bool) -> None:
    """Run one process.

    It saves a run in its middle, or goes on from a checkpoint and compares with an undisturbed run.
    """
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        start = network()
        prior = {name: torch.linspace(0.1, 2, p.numel()).reshape(p.shape) for name, p in start.named_parameters()}
        anchor = {name: p.detach().clone() for name, p in start.named_parameters()}
        mesh = init_device_mesh("cpu", (world,))
        for name in INNERS:
            model = network()
            if not saves:  # what is loaded has to come from the checkpoint, not from the seed
                with torch.no_grad():
                    for p in model.parameters():
                        p.add_(1)
            fully_shard(model, mesh=mesh)
            optimizer = wrapped(name, model, prior, anchor)
            place = folder / name.replace(" ", "-")
            if saves:
                advance(model, optimizer, range(SAVED_AT), rank, world)
                model_state, optimizer_state = of_state.get_state_dict(model, optimizer)
                dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=place)
                continue
            model_state, optimizer_state = of_state.get_state_dict(model, optimizer)
            dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=place)
            of_state.set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
            advance(model, optimizer, range(SAVED_AT, STEPS), rank, world)
            whole = network()
            advance(whole, wrapped(name, whole, prior, anchor), range(STEPS), 0, 1)
            for (of, p), q in zip(model.named_parameters(), whole.parameters(), strict=True):
                found = p.full_tensor() if isinstance(p, DTensor) else p
                # The rounding of float64, which a few steps of Adam enlarge.
                torch.testing.assert_close(found, q, rtol=1e-10, atol=1e-10, msg=f"{name}, {of}, {world} processes")
        dist.barrier()  # whoever ends first would close the store that the others still need
    finally:
        dist.destroy_process_group()
    leave()


def start(world: int, folder: Path, saves: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run, args=(world, port, folder, saves), nprocs=world, join=True)


def test_two_processes_save_and_another_number_goes_on(tmp_path: Path) -> None:
    start(2, tmp_path, saves=True)
    for world in (1, 2, 3):
        start(world, tmp_path, saves=False)
