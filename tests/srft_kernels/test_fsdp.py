"""SRFT over FSDP2's shards, in two processes on the CPU: the weights of one process over the joined batch."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, NAdam, Optimizer

import srft_kernels as srft
from tracker.train.distributed import leave

dist = pytest.importorskip("torch.distributed")
if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

import torch.multiprocessing as mp  # noqa: E402
from torch.distributed.checkpoint import state_dict as dcp  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor  # noqa: E402

WORLD = 2
CASES: dict[str, tuple[type[Optimizer], dict[str, Any], dict[str, Any]]] = {
    "proximal": (AdamW, {"lr": 1e-2}, {"damping": None}),
    "decoupled, global": (
        AdamW,
        {"lr": 1e-2},
        {"damping": None, "mode": "decoupled", "normalize": "global", "strength": 0.1},
    ),
    "coupled, own moments": (SGD, {"lr": 1e-2, "momentum": 0.9}, {"mode": "coupled", "strength": 0.1}),
    "rank": (AdamW, {"lr": 1e-2}, {}),
    "rank, own": (SGD, {"lr": 1e-2}, {"transfer_beta": 0.9}),
    "rank, skipping": (AdamW, {"lr": 1e-2}, {"nonfinite": "skip_step"}),
    "rank, around": (NAdam, {"lr": 1e-2}, {"transfer_beta": 0.9}),
    "mean": (AdamW, {"lr": 1e-2}, {"damping": "mean"}),
    "mean, global": (AdamW, {"lr": 1e-2}, {"damping": "mean", "normalize": "global"}),
    "mean, global, reference": (
        AdamW,
        {"lr": 1e-2},
        {"damping": "mean", "normalize": "global", "backend": "reference"},
    ),
    "to the anchor": (AdamW, {"lr": 1e-2}, {"transfer_anchor": "initial", "strength": 1.0}),
    "to the anchor, coupled": (
        NAdam,
        {"lr": 1e-2},
        {"transfer_anchor": "initial", "mode": "coupled", "strength": 0.1, "normalize": "global"},
    ),
}


def network() -> nn.Module:
    """Return a network whose last bias has one element, so that the second process has none of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(11, 32), nn.GELU(), nn.Linear(32, 7), nn.LayerNorm(7), nn.Linear(7, 1)).double()


def prior_of(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(p.shape, generator=generator).pow(4) for n, p in model.named_parameters()}


def train(model: nn.Module, optimizer: Optimizer, steps: range, part: slice, *, bad: int | None = None) -> None:
    """Train on ``part`` of every batch. The mean over processes is the mean over the batch.

    ``bad`` is a step that is not finite in its last sample.
    """
    for step in steps:
        generator = torch.Generator().manual_seed(1000 + step)
        x = torch.randn(16, 11, generator=generator).double()
        y = torch.randn(16, 1, generator=generator).double()
        if step == bad:
            y[-1] = torch.inf
        optimizer.zero_grad()
        (model(x[part]) - y[part]).square().mean().backward()
        optimizer.step()


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same(ours: nn.Module, theirs: nn.Module, what: str) -> None:
    """Compare to the rounding of float64, which a few steps of Adam enlarge."""
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        found, expected = full(p.detach()), q.detach()
        difference = float((found - expected).abs().max() / expected.abs().max())
        assert difference < 1e-10, f"{what}, {name}: {difference}"


def pair(kind: type[Optimizer], inner: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return a sharded network and one that is whole, with their optimizers."""
    ours, theirs = network(), network()
    prior = prior_of(theirs)
    fully_shard(ours, mesh=init_device_mesh("cpu", (WORLD,)))
    made = [
        srft.SRFT(kind(m.named_parameters(), **inner), prior=prior, kappa=0.5, **{"damping": "rank", **options})  # type: ignore[call-arg]
        for m in (ours, theirs)
    ]
    return ours, theirs, *made


def part(rank: int) -> slice:
    return slice(8 * rank, 8 * rank + 8)


def check_weights(rank: int, _: Path) -> None:
    for name, (kind, inner, options) in CASES.items():
        ours, theirs, sharded, whole = pair(kind, inner, options)
        bad = 3 if "skipping" in name else None
        train(ours, sharded, range(6), part(rank), bad=bad)
        train(theirs, whole, range(6), slice(0, 16), bad=bad)
        assert_same(ours, theirs, name)
        if rank == 1:
            assert any(p.to_local().numel() == 0 for p in ours.parameters())


def check_nonfinite_in_one_shard(rank: int, _: Path) -> None:
    """Check that every process skips the step for one element of one shard."""
    ours, _theirs, sharded, _whole = pair(AdamW, {"lr": 1e-2}, {"nonfinite": "skip_step"})
    train(ours, sharded, range(1), part(rank))
    before = [p.to_local().clone() for p in ours.parameters()]
    if rank == 1:
        next(ours.parameters()).grad.to_local()[-1, 0] = torch.nan
    sharded.step()
    assert all(torch.equal(b, p.to_local()) for b, p in zip(before, ours.parameters(), strict=True))
    assert int(sharded.nonfinite_count) == rank  # of this process's shards


def check_saved_and_loaded(rank: int, folder: Path) -> None:
    ours, theirs, sharded, whole = pair(AdamW, {"lr": 1e-2}, {})
    train(ours, sharded, range(3), part(rank))
    state = sharded.state[next(ours.parameters())]
    for name in ("exp_avg", "exp_avg_sq", "anchor", "prior"):
        assert isinstance(state[name], DTensor)
        assert state[name].placements == (Shard(0),)
    model = {n: full(p.detach()).clone() for n, p in ours.named_parameters()}
    buffer = io.BytesIO()
    torch.save(sharded.state_dict(), buffer)
    buffer.seek(0)
    options = dcp.StateDictOptions(full_state_dict=True)
    for how in ("itself", "shards", "files", "full"):
        again, _theirs, resumed, _whole = pair(AdamW, {"lr": 1e-2}, {})
        if how == "itself":
            resumed.load_state_dict(torch.load(buffer, weights_only=True))
        elif how == "shards":
            dcp.set_optimizer_state_dict(again, resumed, dcp.get_optimizer_state_dict(ours, sharded))
        elif how == "files":
            saved = {"optimizer": dcp.get_optimizer_state_dict(ours, sharded)}
            torch.distributed.checkpoint.save(saved, checkpoint_id=folder / "checkpoint")
            loaded = {"optimizer": dcp.get_optimizer_state_dict(again, resumed)}
            torch.distributed.checkpoint.load(loaded, checkpoint_id=folder / "checkpoint")
            dcp.set_optimizer_state_dict(again, resumed, loaded["optimizer"])
        else:
            whole_state = dcp.get_optimizer_state_dict(ours, sharded, options=options)
            dcp.set_optimizer_state_dict(again, resumed, whole_state, options=options)
        with torch.no_grad():
            for name, p in again.named_parameters():
                p.copy_(distribute_tensor(model[name], p.device_mesh, p.placements))
        train(again, resumed, range(3, 6), part(rank))
        if how == "itself":
            train(theirs, whole, range(6), slice(0, 16))
        assert_same(again, theirs, how)


def check_placements(_: int, __: Path) -> None:
    mesh = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("all",))

    def optimizer(placement: Any, on: Any = mesh, **options: Any) -> tuple[nn.Parameter, srft.SRFT]:
        param = nn.Parameter(distribute_tensor(torch.arange(12.0).reshape(4, 3), on, placement))
        return param, srft.SRFT(AdamW([("w", param)], lr=0.1), **options)

    with pytest.raises(ValueError, match=r"w is distributed as .*Shard\(dim=1\).*Replicate\(\)"):
        optimizer([Shard(1)])
    with pytest.raises(ValueError, match=r"w is distributed as .* mesh of 2 dim"):
        optimizer([Replicate(), Shard(0)], init_device_mesh("cpu", (1, WORLD)))
    _, present = optimizer([Shard(0)])
    with pytest.raises(ValueError, match=r"\(4, 3\) is on .*one optimizer for each mesh"):
        present.add_param_group({"params": [optimizer([Shard(0)], init_device_mesh("cpu", (1,)))[0]]})
    with pytest.raises(ValueError, match=r"w is distributed: .*finite_difference"):
        optimizer([Shard(0)], curvature=srft.Hutchinson(method="autograd"))
    # Replicated, and a prior that is distributed already.
    weights = []
    for placement in (Replicate(), Shard(0)):
        prior = distribute_tensor(torch.arange(12.0).reshape(4, 3), mesh, [placement])
        param, wrapped = optimizer([placement], prior={"w": prior}, kappa=0.5, damping="mean")
        for step in range(3):
            param.grad = distribute_tensor(torch.arange(12.0).reshape(4, 3) - step, mesh, [placement])
            wrapped.step()
        weights.append(full(param.detach()))
    torch.testing.assert_close(*weights)
    param.grad = distribute_tensor(torch.ones(4, 3), mesh, [Replicate()])
    with pytest.raises(RuntimeError, match=r"distributed as their parameters are \(parameter w\)"):
        wrapped.step()


class Scale(nn.Module):
    """A network with a diagonal Hessian, which every choice of signs recovers as a whole."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1.0, 2.0, size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def closure_of(model: nn.Module, optimizer: Optimizer, loss_of: Callable[[nn.Module], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    return closure


def check_curvature(rank: int, _: Path) -> None:
    """Finite differences of a quadratic err by the rounding of a gradient over h."""
    ours, theirs = Scale(5), Scale(5)
    fully_shard(ours, mesh=init_device_mesh("cpu", (WORLD,)))
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(2)).double()
    for model, own in ((ours, x[part(rank)]), (theirs, x)):
        spec = srft.Hutchinson(every=2, probes=2, blend=0.5, step=1e-3)
        prior = {"w": torch.arange(5.0)}
        optimizer = srft.SRFT(AdamW(model.named_parameters(), lr=0.1), prior, kappa=0.5, damping="rank", curvature=spec)
        closure = closure_of(model, optimizer, lambda m, own=own: m(own).square().mean())  # type: ignore[misc]
        for _step in range(4):
            optimizer.step(closure)
    torch.testing.assert_close(full(ours.w.detach()), theirs.w.detach(), rtol=1e-10, atol=0)

    # H = 1 everywhere: z ⊙ Hz is 1 + z1 z2, always 2 if shards had the same signs.
    pairwise = Scale(2)
    fully_shard(pairwise, mesh=init_device_mesh("cpu", (WORLD,)))
    optimizer = srft.SRFT(AdamW(pairwise.named_parameters()), curvature=srft.Hutchinson(beta=0.0, probes=16))
    ones = torch.ones(2, dtype=torch.float64)
    optimizer.step(closure_of(pairwise, optimizer, lambda m: 0.5 * m(ones).sum().square()))
    found = full(optimizer.state[pairwise.w]["curvature"])
    assert 0.1 < float(found[0]) < 1.9
    torch.testing.assert_close(found[0], found[1])


def check_diagonal(rank: int, _: Path) -> None:
    """Check the diagonal that is estimated on shards, each process with its own samples. One probe makes it exact."""
    ours, theirs = Scale(5), Scale(5)
    fully_shard(ours, mesh=init_device_mesh("cpu", (WORLD,)))
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(2)).double()
    before = full(ours.w.detach())
    made = [
        srft.hutchinson_diagonal(
            model,
            lambda m, batch: m(batch).square().mean(1),
            [own, own],
            method="finite_difference",
            step=1e-3,
            probes=3,
            relative_error=1.0,
        )
        for model, own in ((ours, x[part(rank)]), (theirs, x))
    ]
    torch.testing.assert_close(made[0]["w"], made[1]["w"], rtol=1e-9, atol=0)
    torch.testing.assert_close(made[0].info["relative_error"], made[1].info["relative_error"], rtol=0, atol=1e-9)
    assert torch.equal(full(ours.w.detach()), before)
    assert srft.SRFT(AdamW(ours.named_parameters()), made[0]) is not None
    for estimator in ("fisher", "fisher_exact", "mas"):
        with pytest.raises(ValueError, match="'w' is distributed"):
            srft.estimate_prior(
                ours,
                None if estimator == "mas" else lambda m, batch: m(batch).square().mean(1),
                [x],
                estimator,
                **({"outputs_fn": lambda m, batch: m(batch)} if estimator == "mas" else {}),
            )
    magnitude = srft.estimate_prior(ours, estimator="magnitude")
    assert torch.equal(magnitude["w"], before.abs())


def _process(rank: int, port: int, folder: Path, checks: list[Callable[[int, Path], None]]) -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    try:
        for check in checks:
            check(rank, folder)
    finally:
        dist.destroy_process_group()
    leave()


CHECKS = {
    "steps": [check_weights, check_nonfinite_in_one_shard, check_curvature, check_diagonal],
    "state": [check_saved_and_loaded, check_placements],
}


@pytest.mark.parametrize("checks", CHECKS.values(), ids=CHECKS)
def test_sharded(checks: list[Callable[[int, Path], None]], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, tmp_path, checks), nprocs=WORLD)
