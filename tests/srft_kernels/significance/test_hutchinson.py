"""Hutchinson's diagonal agrees with known Hessians, its noise agrees with theory, and the model stays untouched."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

import srft_kernels as srft
from srft_kernels.significance import hessian_diagonal, hutchinson_diagonal
from srft_kernels.significance.convergence import LEAST_DRAWS, RunningError
from srft_kernels.significance.hessian import (
    Probed,
    default_step,
    gradient_differences,
    narrowest_dtype,
    second_derivatives,
)
from tracker.train.distributed import leave

METHODS = ("autograd", "finite_difference")
Batch = tuple[Tensor, Tensor]


class Quadratic(nn.Module):
    """L = 1/2 θᵀAθ + bᵀθ, its θ cut into two parameters."""

    def __init__(self, matrix: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        half = len(matrix) // 2
        start = torch.linspace(-1.0, 1.0, len(matrix), dtype=torch.float64).to(dtype)
        self.first = nn.Parameter(start[:half].clone())
        self.second = nn.Parameter(start[half:].clone())
        self.matrix = matrix.to(dtype)

    def forward(self, tilt: Tensor) -> Tensor:
        theta = torch.cat([self.first, self.second])
        return theta @ self.matrix @ theta / 2 + tilt * theta.sum()


def value(model: nn.Module, batch: Tensor) -> Tensor:
    out: Tensor = model(batch)
    return out


def flat(diagonal: Any) -> Tensor:
    return torch.cat([t.double().reshape(-1) for t in diagonal.values()])


def symmetric(size: int, seed: int = 0) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


TILT = torch.tensor([0.5], dtype=torch.float64)[0]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)).to(dtype)


def samples(size: int = 6, dtype: torch.dtype = torch.float64, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, generator=g, dtype=torch.float64).to(dtype), torch.randint(0, 3, (size,), generator=g)


def losses(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def full_hessian(model: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
    """Return the Hessian of the loss as a function of all parameters, (P, P), by torch.func."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    blocks = torch.func.hessian(loss)(named)
    rows = [torch.cat([blocks[a][b].reshape(named[a].numel(), -1) for b in named], dim=1) for a in named]
    return torch.cat(rows)


def network_hessian(model: nn.Module, batch: Batch) -> Tensor:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (batch[0],)), batch[1])

    return full_hessian(model, loss)


# ---- what is estimated ----


@pytest.mark.parametrize("method", METHODS)
def test_one_probe_is_exact_where_the_hessian_is_diagonal(method: str) -> None:
    diagonal = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    made = hessian_diagonal(Quadratic(torch.diag(diagonal)), value, [TILT], method=method)
    # A difference of gradients of about 1 over h = 1e-6 keeps ten of float64's sixteen digits.
    torch.testing.assert_close(flat(made.diagonal), diagonal, rtol=1e-12, atol=0.0 if method == "autograd" else 1e-8)
    significance = hutchinson_diagonal(Quadratic(torch.diag(diagonal)), value, [TILT], method=method)
    assert torch.equal(flat(significance), flat(made.diagonal).abs())


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_squared_error_follows_the_law_of_theory(method: str) -> None:
    """One Rademacher probe has the variance Σ_{j≠i} H_ij² per element, for the sum over all: Σ_{i≠j} H_ij²."""
    model, batch = network(), samples()
    h = network_hessian(model, batch)
    truth = h.diagonal()
    variance = (h - torch.diag(truth)).square().sum()
    draws = 600
    parameters = list(model.parameters())
    probed = Probed(model, parameters, range(len(parameters)), 5)

    def loss() -> Tensor:
        return losses(model, batch).mean()

    block = (
        second_derivatives(probed, loss, 1.0, draws)
        if method == "autograd"
        else gradient_differences(probed, loss, 1.0, 1e-6, "central")
    )
    with block as product:
        each = torch.stack([torch.cat([t.reshape(-1) for t in product(k) if t is not None]) for k in range(draws)])
    ratios = (each - truth).square().sum(1) / variance
    # The mean of independent draws with expectation 1; their own spread says how far it may be: 4 standard errors, a
    # chance of 6e-5.
    assert abs(float(ratios.mean()) - 1.0) < 4.0 * float(ratios.std()) / math.sqrt(draws)
    # And with K probes averaged a K-th of it: groups of 30, again against their own spread.
    groups = each.reshape(-1, 30, len(truth)).mean(1)
    ratios = (groups - truth).square().sum(1) * 30 / variance
    assert abs(float(ratios.mean()) - 1.0) < 4.0 * float(ratios.std()) / math.sqrt(len(ratios))
    # Per element: no bias beyond 4.5 standard errors in any of them (31 elements: a chance of 2e-4).
    per_element = (h - torch.diag(truth)).square().sum(1).div(draws).sqrt()
    assert ((each.mean(0) - truth).abs() <= 4.5 * per_element + 1e-8).all()


@pytest.mark.parametrize("method", METHODS)
def test_probes_and_batches_are_averaged_by_samples(method: str) -> None:
    model = network()
    big, small = samples(6), samples(2, seed=4)
    both = (torch.cat([big[0], small[0]]), torch.cat([big[1], small[1]]))
    truth = network_hessian(model, both).diagonal()
    variance = sum(
        float((h - torch.diag(h.diagonal())).square().sum()) * (len(b[1]) / 8) ** 2
        for b in (big, small)
        for h in [network_hessian(model, b)]
    )
    probes = 200
    made = hessian_diagonal(model, losses, [big, small], probes=probes, method=method, seed=3)
    assert made.info["samples"] == 8
    assert made.info["probes"] == 2 * probes
    # The squared error's expectation is variance / probes, and it is a sum of P nearly normal squares: 5 times its
    # expectation is less likely than for a chi-square of one degree, 2.5 %. The seed is fixed.
    assert float((flat(made.diagonal) - truth).square().sum()) < 5.0 * variance / probes


def test_both_methods_see_the_same_probes() -> None:
    model, batch = network(), samples()
    exact = hessian_diagonal(model, losses, [batch], probes=3, seed=7)
    for difference in ("forward", "central"):
        made = hessian_diagonal(
            model, losses, [batch], probes=3, seed=7, method="finite_difference", difference=difference
        )
        bound = 1e-5 if difference == "forward" else 1e-8  # measured: 5e-7, 1e-9; probes that differ would give 1
        assert (flat(made.diagonal) - flat(exact.diagonal)).norm() < bound * flat(exact.diagonal).norm()
        assert made.info["difference"] == difference
    other = hessian_diagonal(model, losses, [batch], probes=3, seed=8)
    assert not torch.allclose(flat(other.diagonal), flat(exact.diagonal))


@pytest.mark.parametrize(("difference", "order"), [("forward", 1), ("central", 2)])
def test_the_error_of_a_difference_has_its_order_in_h(difference: str, order: int) -> None:
    model, batch = network(), samples()
    exact = flat(hessian_diagonal(model, losses, [batch]).diagonal)
    errors = [
        float(
            (
                flat(
                    hessian_diagonal(
                        model, losses, [batch], method="finite_difference", difference=difference, step=h
                    ).diagonal
                )
                - exact
            ).norm()
        )
        for h in (4e-3, 2e-3, 1e-3)
    ]
    # Halving h halves or quarters the error, but for the next order in h, a relative 2 % here.
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.05)


def test_the_same_map_by_any_selection_of_parameters_has_the_same_probes() -> None:
    model, batch = network(), samples()
    part = hessian_diagonal(model, losses, [batch], parameters=["3.weight"]).diagonal["3.weight"]
    h = network_hessian(model, batch)
    names = [n for n, p in model.named_parameters() for _ in range(p.numel())]
    at = [k for k, n in enumerate(names) if n == "3.weight"]
    z = torch.empty(3, 4, dtype=torch.float64)
    place = [n for n, _ in model.named_parameters()].index("3.weight")
    from srft_kernels.ops.probe import fill_probes_

    fill_probes_([z], 0, 0, [place])
    block = h[at][:, at]
    torch.testing.assert_close(part.reshape(-1), z.reshape(-1) * (block @ z.reshape(-1)))


def test_a_scalar_loss_is_the_mean_of_its_batch() -> None:
    model = network()
    batches = [samples(4), samples(2, seed=9)]
    per_sample = hessian_diagonal(model, losses, batches)
    scalar = hessian_diagonal(model, lambda m, b: losses(m, b).mean(), batches)
    torch.testing.assert_close(flat(scalar.diagonal), flat(per_sample.diagonal))
    assert scalar.info["samples"] == 6
    first = hessian_diagonal(model, losses, batches, samples=3)
    cut = hessian_diagonal(model, losses, [(batches[0][0][:3], batches[0][1][:3])])
    torch.testing.assert_close(flat(first.diagonal), flat(cut.diagonal))


def test_unreached_and_linear_parameters_have_no_curvature() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Parameter(torch.tensor(2.0))
            self.linear = nn.Parameter(torch.tensor(1.0))
            self.spare = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.used**3 * x + self.linear

    for method in METHODS:
        made = hutchinson_diagonal(Partly(), value, [torch.tensor(1.0)], method=method)
        assert made.info["unreached"] == ["spare"]
        assert made["used"].item() == pytest.approx(12.0, rel=1e-2)
        assert made["linear"].item() == 0.0
        assert not made["spare"].any()


def test_estimate_prior_knows_it_by_name_and_the_map_says_how(tmp_path: Path) -> None:
    model, batch = network(torch.float32), samples(dtype=torch.float32)
    made = srft.estimate_prior(model, losses, [batch], "hutchinson", probes=2, method="finite_difference")
    again = srft.hutchinson_diagonal(model, losses, [batch], probes=2, method="finite_difference")
    assert torch.equal(flat(made), flat(again))
    assert made.check(model) == []
    assert made.info["step"] == default_step(torch.float32, 43, "forward") == 4e-5
    assert made.info["arithmetic"] == "float32"
    assert made.info["options"]["probes"] == 2
    made.save(tmp_path / "map.safetensors")
    assert srft.SignificanceMap.load(tmp_path / "map.safetensors").info == made.info


# ---- the parameters come back ----


def awkward(model: nn.Module) -> None:
    """Give the model weights whose sum with h, less h, is another number, or whose bits no arithmetic keeps."""
    with torch.no_grad():
        for p in model.parameters():
            p.reshape(-1)[0] = -0.0
            p.reshape(-1)[1] = 1e-40 if p.dtype in (torch.float32, torch.bfloat16) else 6e-8


def bits(model: nn.Module) -> list[bytes]:
    return [p.detach().contiguous().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fails_at", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_parameters_come_back_bit_for_bit(dtype: torch.dtype, fails_at: int | None, difference: str) -> None:
    model, batch = network(dtype), samples(dtype=dtype)
    awkward(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    before = bits(model)
    calls, moved = 0, 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls, moved
        moved += bits(model) != before
        if calls == fails_at:
            raise KeyboardInterrupt
        calls += 1
        return losses(model, batch)

    with contextlib.nullcontext() if fails_at is None else pytest.raises(KeyboardInterrupt):
        hutchinson_diagonal(
            model, loss, [batch, batch], probes=2, method="finite_difference", difference=difference, step=1e-2
        )
    assert bits(model) == before
    assert [p.data_ptr() for p in model.parameters()] == pointers
    if fails_at is None:
        assert moved == (4 if difference == "forward" else 8)


def test_a_step_by_arithmetic_would_fail_that_test() -> None:
    p = network(torch.float32)[0].weight.detach().clone()
    moved = p.clone().add_(1e-2).sub_(2e-2).add_(1e-2)
    assert not torch.equal(moved, p)


# ---- both evaluations are alike ----


class Noisy(nn.Module):
    """Dropout, drop-path by Python's and NumPy's generators, BatchNorm and a counter, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5)).double()
            self.head = nn.Linear(16, 3).double()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1.0)
        keep = random.random() + float(np.random.rand())  # noqa: NPY002
        return self.head(self.body(x)) * keep * (1.0 + self.calls)


@pytest.mark.parametrize("difference", ["forward", "central"])
def test_dropout_drop_path_and_buffers_are_alike_in_all_evaluations(difference: str) -> None:
    model, batches = Noisy(), [samples(8), samples(8, seed=5)]
    state = {n: b.clone() for n, b in model.named_buffers()}
    seen = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()]  # type: ignore[index]  # noqa: NPY002
    options: dict[str, Any] = {"training": True, "seed": 2}
    made = hessian_diagonal(
        model, losses, batches, method="finite_difference", difference=difference, step=1e-7, **options
    )
    # Masks that differ between the evaluations would be worth their gradients' difference over h: some 1e7.
    exact = hessian_diagonal(model, losses, batches[:1], **options)
    first = hessian_diagonal(
        model, losses, batches[:1], method="finite_difference", difference=difference, step=1e-7, **options
    )
    # float64's rounding of gradients of 1 over h: 1e-8.
    torch.testing.assert_close(flat(first.diagonal), flat(exact.diagonal), rtol=1e-4, atol=1e-5)
    assert flat(made.diagonal).abs().max() < 1e3
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, state[name]), name
    assert torch.equal(torch.get_rng_state(), seen[0])
    assert random.getstate() == seen[1]
    assert (np.random.get_state()[1] == seen[2]).all()  # type: ignore[index]  # noqa: NPY002


def test_batches_draw_dropout_of_their_own() -> None:
    masks = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        masks.append(torch.rand(4))
        return losses(model, batch)

    hutchinson_diagonal(
        network(), loss, [samples(), samples()], method="finite_difference", difference="central", step=1e-3
    )
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


# ---- the models that people have ----


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.qkv = nn.Linear(8, 24).double()
            self.head = nn.Linear(8, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.head(mixed.transpose(1, 2).flatten(2).mean(1))
        return out


def enabled_backends() -> dict[SDPBackend, bool]:
    cuda = torch.backends.cuda
    return {
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
    }


def test_fused_attention_works_with_both_and_its_choice_comes_back() -> None:
    model = Attention()
    g = torch.Generator().manual_seed(3)
    batch = (torch.randn(4, 5, 8, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, 1]))
    # What is chosen without asking has no second derivative.
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    (g1,) = torch.autograd.grad(F.scaled_dot_product_attention(q, q, q).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for"):
        torch.autograd.grad(g1.sum(), q)
    before = enabled_backends()
    exact = hessian_diagonal(model, losses, [batch], probes=2)
    assert enabled_backends() == before
    made = hessian_diagonal(model, losses, [batch], probes=2, method="finite_difference", difference="central")
    assert (flat(made.diagonal) - flat(exact.diagonal)).norm() < 1e-6 * flat(exact.diagonal).norm()
    with pytest.raises(KeyboardInterrupt):
        hutchinson_diagonal(model, _interrupted, [batch])
    assert enabled_backends() == before


def _interrupted(model: nn.Module, batch: Batch) -> Tensor:
    raise KeyboardInterrupt


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2.0 * g * x


def test_an_operation_without_second_derivative_is_explained_and_works_by_differences() -> None:
    model = nn.Linear(3, 1, bias=False).double()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return OnceOnly.apply(model(batch)).reshape(-1)  # type: ignore[no-any-return]

    batch = torch.eye(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="use method='finite_difference'"):
        hutchinson_diagonal(model, loss, [batch])
    made = hutchinson_diagonal(model, loss, [batch], method="finite_difference")
    torch.testing.assert_close(made["weight"], torch.full((1, 3), 2.0 / 3.0, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_autocast_in_bfloat16(method: str, outside: bool) -> None:
    """Autocast is inside of the loss function, or around the whole pass, where it keeps its casts of the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))
    batch = samples(64, dtype=torch.float32)
    truth = flat(hessian_diagonal(model, losses, [batch], probes=4).diagonal)

    def cast(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return losses(model, batch)

    with torch.autocast("cpu", torch.bfloat16) if outside else contextlib.nullcontext():
        made = hessian_diagonal(model, losses if outside else cast, [batch], probes=4, method=method)
    if method == "finite_difference":
        assert (made.info["arithmetic"], made.info["difference"]) == ("bfloat16", "central")
        assert made.info["step"] == default_step(torch.bfloat16, 227, "central")
    # Weights that had not moved would give zero, an error of 1; bfloat16 arithmetic is worth about a tenth.
    assert (flat(made.diagonal) - truth).norm() < 0.25 * truth.norm()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner = network()
        self.drop = nn.Dropout(0.3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            out: Tensor = self.drop(self.inner(x))
        else:
            x = x.requires_grad_() if self.reentrant else x
            out = checkpoint(lambda y: self.drop(self.inner(y)), x, use_reentrant=self.reentrant)
        return out


@pytest.mark.parametrize(
    ("method", "reentrant"), [("autograd", False), ("finite_difference", False), ("finite_difference", True)]
)
def test_gradient_checkpointing(method: str, reentrant: bool) -> None:
    batch = samples()
    plain = hessian_diagonal(Checkpointed(None), losses, [batch], training=True, method=method)
    made = hessian_diagonal(Checkpointed(reentrant), losses, [batch], training=True, method=method)
    torch.testing.assert_close(flat(made.diagonal), flat(plain.diagonal), rtol=1e-6, atol=1e-8)


def test_tied_sparse_and_channels_last_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.table = nn.Embedding(5, 4, sparse=True).double()
                self.conv = nn.Conv2d(2, 3, 2).double().to(memory_format=torch.channels_last)
                self.head = nn.Linear(4, 5, bias=False).double()
                self.head_again = self.head

        def forward(self, x: Tensor) -> Tensor:
            grid = self.conv(self.table(x).reshape(len(x), 2, 2, 4)).tanh().sum((1, 2, 3))
            return grid + self.head_again(self.head(self.table(x).mean(1))[:, :4]).square().sum(1)

    model = Odd()
    batch = torch.tensor([[0, 1, 1, 3], [2, 2, 4, 0]])
    made = hessian_diagonal(model, value, [batch], method="finite_difference", difference="central", probes=3)
    assert not model.conv.weight.is_contiguous()
    model.table.sparse = False
    exact = hessian_diagonal(model, value, [batch], probes=3)
    torch.testing.assert_close(flat(made.diagonal), flat(exact.diagonal), rtol=1e-5, atol=1e-7)


def test_loss_scale_is_taken_out_again() -> None:
    model, batch = network(), samples()
    for method in METHODS:
        plain = hessian_diagonal(model, losses, [batch], method=method)
        scaled = hessian_diagonal(model, losses, [batch], method=method, loss_scale=1024.0)
        torch.testing.assert_close(flat(scaled.diagonal), flat(plain.diagonal), rtol=1e-9, atol=1e-12)


def test_the_arithmetic_is_read_from_the_graph() -> None:
    model, batch = network(torch.float32), samples(dtype=torch.float32)
    parameters = list(model.parameters())
    assert narrowest_dtype(losses(model, batch).mean(), parameters) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses(model, batch).mean()
    assert narrowest_dtype(cast, parameters) == torch.bfloat16
    assert narrowest_dtype(losses(network(), samples()).mean(), list(network().parameters())) == torch.float64


# ---- several processes ----


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _reduced(rank: int, port: int, folder: str, bucket_view: bool) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        model = nn.parallel.DistributedDataParallel(network(), gradient_as_bucket_view=bucket_view)
        made = {}
        for difference in ("forward", "central"):
            made[difference] = hessian_diagonal(
                model,
                losses,
                [samples(4, seed=10 + rank), samples(4, seed=20 + rank)],
                probes=2,
                method="finite_difference",
                difference=difference,
                seed=1,
            ).diagonal
        with pytest.raises(ValueError, match=r"model\.module"):
            hutchinson_diagonal(model, losses, [samples(4)])
        torch.save(made, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave()


@pytest.mark.parametrize("bucket_view", [False, True])
def test_distributed_data_parallel_reduces_as_in_a_step(tmp_path: Path, bucket_view: bool) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    torch.multiprocessing.spawn(_reduced, (_free_port(), str(tmp_path), bucket_view), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    whole = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
        for a, b in ((samples(4, seed=s), samples(4, seed=s + 1)) for s in (10, 20))
    ]
    exact = flat(hessian_diagonal(network(), losses, whole, probes=2, seed=1).diagonal)
    for difference, tolerance in (("forward", 1e-5), ("central", 1e-8)):
        assert torch.equal(flat(zero[difference]), flat(one[difference]))
        assert (flat(zero[difference]) - exact).norm() < tolerance * exact.norm()


# ---- when to stop ----


def test_the_running_error_is_the_error_of_theory() -> None:
    """The estimated error of draws with known mean and variance agrees with the formula and with what happens."""
    rng = torch.Generator().manual_seed(0)
    truth, deviation = torch.tensor([3.0, 4.0]).double(), torch.tensor([2.0, 1.0]).double()
    estimated, actual = [], []
    for _ in range(400):
        error, sums = RunningError(), [torch.zeros(2).double()]
        for _ in range(50):
            draw = truth + deviation * torch.randn(2, generator=rng, dtype=torch.float64)
            error.observe([draw * 3.0], 3.0, sums)
            sums[0] += draw * 3.0
        estimated.append(error.relative(sums)[0])
        actual.append(float((sums[0] / 150.0 - truth).square().sum()))
    theory = math.sqrt(5.0 / 50) / 5.0
    assert math.sqrt(float(np.mean(actual))) / 5.0 == pytest.approx(theory, rel=0.1)  # 800 squares: 4 % at 2 sigma
    assert float(np.mean(np.square(estimated))) ** 0.5 == pytest.approx(theory, rel=0.03)


def test_the_running_error_by_hand() -> None:
    draws, weights = [[1.0, 0.0], [3.0, 1.0], [2.0, 5.0]], [1.0, 2.0, 1.0]
    error, sums = RunningError(), [torch.zeros(1).double(), torch.zeros(1).double()]
    assert error.relative(sums)[0] == math.inf
    for draw, weight in zip(draws, weights, strict=True):
        parts = [torch.tensor([x * weight]).double() for x in draw]
        error.observe([parts[0], parts[1] if draw[1] else None], weight, sums)
        for total, part in zip(sums, parts, strict=True):
            total += part
    array, w = np.array(draws), np.array(weights)
    mean = w @ array / w.sum()
    effective = w.sum() ** 2 / (w**2).sum()
    variance = (w @ (array - mean) ** 2) / w.sum() / (effective - 1)
    together, each = error.relative(sums)
    assert together == pytest.approx(math.sqrt(variance.sum() / ((mean**2).sum() - variance.sum())))
    assert each == [
        pytest.approx(math.sqrt(v / (m**2 - v))) if m**2 > v else math.inf for v, m in zip(variance, mean, strict=True)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_stops_at_the_error_asked_for_on_a_known_case(method: str) -> None:
    """With one batch and very many probes, the error against the known Hessian is as asked for, over twenty seeds."""
    h = symmetric(12) + 8.0 * torch.eye(12, dtype=torch.float64)
    truth = h.diagonal()
    expected = float((h - torch.diag(truth)).square().sum()) / float(truth.square().sum())  # of one probe, squared
    wanted = 0.15
    errors, used = [], []
    for seed in range(20):
        made = hessian_diagonal(
            Quadratic(h), value, [TILT], probes=10_000, relative_error=wanted, seed=seed, method=method
        )
        assert made.info["relative_error"] <= wanted
        errors.append(float((flat(made.diagonal) - truth).norm() / truth.norm()))
        used.append(made.info["probes"])
    # The root mean square over seeds is the quantity asked for; the mean of 20 squares, each at worst a chi-square of
    # one degree, has a relative standard error of at most 32 %: three of them.
    assert math.sqrt(np.mean(np.square(errors))) < wanted * math.sqrt(1 + 3 * 0.32)
    # And no more probes than needed: theory's number, within the spread of stopping early or late.
    assert np.mean(used) == pytest.approx(expected / wanted**2, rel=0.35)


def test_stops_between_batches_and_says_how_sure_it_is() -> None:
    h = symmetric(12) + 8.0 * torch.eye(12, dtype=torch.float64)
    drawn = 0

    def endless() -> Iterator[Tensor]:
        nonlocal drawn
        while True:
            drawn += 1
            yield TILT

    made = hutchinson_diagonal(Quadratic(h), value, endless(), relative_error=0.2, seed=1)
    assert LEAST_DRAWS <= drawn == made.info["batches"] == made.info["probes"]
    assert made.info["relative_error"] <= 0.2
    assert set(made.info["relative_errors"]) == {"first", "second"}
    # A diagonal Hessian is known after one probe, but eight are looked at.
    sure = hutchinson_diagonal(Quadratic(torch.eye(4)), value, [TILT] * 100, relative_error=1e-3)
    assert (sure.info["batches"], sure.info["relative_error"]) == (LEAST_DRAWS, pytest.approx(0.0, abs=1e-9))


def test_an_error_that_was_not_reached_is_told() -> None:
    h = symmetric(12) + 8.0 * torch.eye(12, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="relative error of about .* not the 0.001 asked for, after 9 batches"):
        made = hutchinson_diagonal(Quadratic(h), value, [TILT] * 9, relative_error=1e-3)
    assert made.info["relative_error"] > 1e-3
    with pytest.warns(RuntimeWarning, match="relative error of about inf"):
        alone = hutchinson_diagonal(Quadratic(h), value, [TILT], relative_error=1e-3)
    assert alone.info["relative_error"] is None


def test_progress_counts_probes(capsys: pytest.CaptureFixture[str]) -> None:
    hutchinson_diagonal(network(), losses, [samples()], probes=5, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("\n")
    assert "hutchinson" in shown.err
    assert "5/5" in shown.err.rstrip("\n").split("\r")[-1]


# ---- what is refused, before anything is changed ----


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(2))
        self.two = nn.Parameter(self.one.data)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4)[:, ::2])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"probes": 0}, "probes must be at least 1"),
        ({"method": "exact"}, 'method must be "autograd"'),
        ({"step": 1e-3}, "belong to method='finite_difference'"),
        ({"difference": "central"}, "belong to method='finite_difference'"),
        ({"method": "finite_difference", "difference": "backward"}, "difference must be"),
        ({"method": "finite_difference", "step": 0.0}, "step must be positive"),
        ({"method": "finite_difference", "step": math.nan}, "step must be positive"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"relative_error": 0.0}, "relative_error must be positive"),
        ({"probe": 3}, "no option 'probe'"),
        ({"loss_fn": lambda m, b: 1.0}, "or a scalar that is their mean, got float"),
        ({"loss_fn": lambda m, b: m(b[0])}, r"shape \(6, 3\)"),
        ({"loss_fn": lambda m, b: losses(m, b).detach()}, "do not depend"),
        ({"batches": []}, "there were no samples"),
    ],
)
def test_unfit_arguments_are_refused_in_one_sentence(arguments: dict[str, Any], complaint: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=complaint):
        hutchinson_diagonal(model, **{"loss_fn": losses, "batches": [samples()], **arguments})


@pytest.mark.parametrize(
    ("model", "complaint"),
    [(Shared(), "'two' and 'one' share their memory"), (Strided(), "'weight' has shape .* make it contiguous")],
)
def test_parameters_that_cannot_be_moved_are_refused(model: nn.Module, complaint: str) -> None:
    def never(model: nn.Module, batch: Any) -> Tensor:
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match=complaint):
        hutchinson_diagonal(model, never, [0], method="finite_difference")


def test_an_optimizer_in_the_backward_pass_is_refused() -> None:
    model = network()
    handle = model[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=r"'0\.weight' has a hook"):
        hutchinson_diagonal(model, losses, [samples()], method="finite_difference")
    handle.remove()
    hutchinson_diagonal(model, losses, [samples()], method="finite_difference")


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_batch_is_left_out(method: str) -> None:
    good, bad = samples(4), samples(4)
    bad[0][1, 0] = math.nan
    with pytest.warns(RuntimeWarning, match="1 of 2 batches .* curvatures of .* are not finite"):
        made = hessian_diagonal(network(), losses, [good, bad], method=method)
    alone = hessian_diagonal(network(), losses, [good], method=method)
    assert torch.equal(flat(made.diagonal), flat(alone.diagonal))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_pass_leaves_everything_as_it_found_it(method: str, fails: bool) -> None:
    model = Noisy()
    losses(model, samples()).sum().backward()
    model.body[1].eval()
    model.head.bias.requires_grad_(False)
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    flags = [m.training for m in model.modules()]
    before = bits(model)
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if fails and calls == 3:
            raise KeyboardInterrupt
        out = losses(model, batch)
        out.sum().backward(retain_graph=True)  # a loss function that does so must not disturb either
        return out

    rng = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        hutchinson_diagonal(model, loss, [samples()] * 4, method=method, training=True)
    assert bits(model) == before
    assert [m.training for m in model.modules()] == flags
    assert not model.head.bias.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)
    for p, (found, copy) in zip(model.parameters(), gradients, strict=True):
        assert p.grad is found
        if copy is not None:
            assert torch.equal(p.grad, copy)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_the_gpu(method: str) -> None:
    model, batch = Attention(), (torch.randn(4, 5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 1]))
    expected = hessian_diagonal(model, losses, [batch], probes=3).diagonal
    moved = (batch[0].cuda(), batch[1].cuda())
    made = hessian_diagonal(model.cuda(), losses, [moved], probes=3, method=method).diagonal
    assert (flat(made).cpu() - flat(expected)).norm() < 1e-5 * flat(expected).norm()
