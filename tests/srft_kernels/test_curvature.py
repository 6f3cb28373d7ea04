"""Curvature during training: what a draw folds in, against known Hessians, and what SRFT makes of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.optim import SGD, AdamW, RMSprop

import srft_kernels as srft
from srft_kernels.curvature import evaluate, fold
from tests.paths import REPOSITORY

METHODS = ("finite_difference", "autograd")


class Quadratic(nn.Module):
    """½ Σ d (θ - c)², whose Hessian is diag(d)."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.theta = nn.Parameter(torch.randn(5, 7, generator=generator, dtype=torch.float64).to(dtype))
        self.bias = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64).to(dtype))
        self.d = [torch.rand(p.shape, generator=generator).to(dtype) + 0.1 for p in (self.theta, self.bias)]

    def loss(self) -> Tensor:
        return sum(0.5 * (d * (p - 1.0).square()).sum() for d, p in zip(self.d, self.parameters(), strict=True))  # type: ignore[return-value]


def closure_of(
    model: nn.Module, loss: Callable[[], Tensor], method: str, calls: list[int] | None = None
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        if calls is not None:
            calls.append(1)
        model.zero_grad()
        value = loss()
        if method == "finite_difference":
            value.backward()
        return value

    return closure


def draw(spec: srft.Hutchinson, model: nn.Module, loss: Callable[[], Tensor], number: int = 0) -> list[Tensor]:
    params = list(model.parameters())
    found = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in params]
    estimate(spec, params, found, number, closure_of(model, loss, spec.method))
    return found


def estimate(
    spec: srft.Hutchinson, params: list[nn.Parameter], found: list[Tensor], number: int, closure: Callable[[], Tensor]
) -> None:
    """Fold a draw's products in passes of their own."""
    numbers = list(range(len(params)))
    _, product = evaluate(spec, params, numbers, found, number, closure)
    fold(params, numbers, found, product)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("probes", [1, 3])
def test_a_diagonal_hessian_is_exact_in_one_draw(method: Any, probes: int) -> None:
    model = Quadratic()
    step = 1e-3 if method == "finite_difference" else None  # exact on a quadratic but for rounding, 1e-16 over h
    found = draw(srft.Hutchinson(beta=0.0, probes=probes, method=method, step=step), model, model.loss)
    for h, d in zip(found, model.d, strict=True):
        torch.testing.assert_close(h, d, rtol=1e-9 if method == "finite_difference" else 1e-12, atol=0)
    for p, d in zip(model.parameters(), model.d, strict=True):
        assert torch.equal(p.grad, d * (p.detach() - 1.0))  # type: ignore[arg-type]


def test_draws_are_averaged_as_beta_says() -> None:
    model = Quadratic()
    params = list(model.parameters())
    found = [torch.zeros_like(p) for p in params]
    spec = srft.Hutchinson(beta=0.5, method="autograd")
    for number in range(2):
        estimate(spec, params, found, number, closure_of(model, model.loss, "autograd"))
    for h, d in zip(found, model.d, strict=True):
        torch.testing.assert_close(h, 0.75 * d)


@pytest.mark.parametrize("method", METHODS)
def test_draws_converge_to_the_hessian_as_theory_says(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    names = [n for n, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def flat_loss(flat: Tensor) -> Tensor:
        parts = dict(zip(names, flat.split(sizes), strict=True))
        shaped = {n: parts[n].view(p.shape) for n, p in model.named_parameters()}
        return (functional_call(model, shaped, (x,)) - y).square().mean()

    truth = hessian(flat_loss)(torch.cat([p.detach().flatten() for p in model.parameters()]))
    spec = srft.Hutchinson(beta=0.0, method=method, difference=None if method == "autograd" else "central")
    draws = 400
    total = torch.zeros(len(truth), dtype=torch.float64)
    for number in range(draws):
        parts = draw(spec, model, lambda: (model(x) - y).square().mean(), number)
        total += torch.cat([h.flatten() for h in parts])
    # Rademacher signs: the variance of one draw is the sum of squares beside the diagonal.
    variance = truth.square().sum(1) - truth.diagonal().square()
    expected = variance.sum() / draws
    error = (total / draws - truth.diagonal()).square().sum()
    # The ratio has mean 1 and, from a few dozen nearly independent elements, a deviation of about 0.4.
    assert 0.1 < error / expected < 3.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_parameters_come_back_bit_for_bit_after_an_exception(dtype: torch.dtype, fails_at: int) -> None:
    model = Quadratic(dtype)
    before = copy.deepcopy(model.state_dict())
    calls: list[int] = []

    def loss() -> Tensor:
        if len(calls) > fails_at:
            raise ArithmeticError("stop")
        return model.loss()

    params = list(model.parameters())
    found = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    spec = srft.Hutchinson(probes=2, difference="central")
    with pytest.raises(ArithmeticError):
        estimate(spec, params, found, 0, closure_of(model, loss, "finite_difference", calls))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is not None for p in params)


def test_dropout_draws_alike_in_every_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.randn(5, 8).double()
    answers = []
    for method in METHODS:
        torch.manual_seed(1)
        how: dict[str, Any] = {} if method == "autograd" else {"difference": "central", "step": 1e-5}
        spec = srft.Hutchinson(beta=0.0, method=method, **how)
        answers.append(draw(spec, model, lambda: model(x).square().mean()))
        answers[-1].append(torch.rand(3).double())  # the generator goes on as after one evaluation
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # another mask would be worth about 1 / h = 1e5


def train(optimizer: srft.SRFT, model: nn.Module, loss: Callable[[], Tensor], steps: int, method: str) -> None:
    for _ in range(steps):
        due = optimizer.param_groups[0]["updates"] % 3 == 0
        optimizer.step(closure_of(model, loss, method if due else "finite_difference"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", ["tensor", "global", None])
@pytest.mark.parametrize("inner", [AdamW, SGD, RMSprop])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_on_a_diagonal_hessian_srft_is_srft_with_that_prior(
    inner: Any, normalize: Any, method: Any, beta: float
) -> None:
    """There H is (1 - β^draws) times the Hessian, and neither the mean nor a bias may show that factor."""
    if beta and inner is RMSprop:
        normalize = "tensor"
    ours, theirs = Quadratic(), Quadratic()
    spec = srft.Hutchinson(every=3, beta=beta, method=method)
    options: dict[str, Any] = {"strength": 2.0, "kappa": 0.6, "damping": "rank", "normalize": normalize}
    known = dict(zip(("theta", "bias"), theirs.d, strict=True))
    optimizer = srft.SRFT(inner(ours.named_parameters(), lr=0.01), curvature=spec, **options)
    reference = srft.SRFT(inner(theirs.named_parameters(), lr=0.01), prior=known, **options)
    train(optimizer, ours, ours.loss, 7, method)
    for _ in range(7):
        reference.step(closure_of(theirs, theirs.loss, "finite_difference"))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(optimizer.penalty, reference.penalty, rtol=1e-6, atol=1e-12)


def test_a_blend_is_the_weighted_mean_of_both_normalized() -> None:
    ours, theirs = Quadratic(), Quadratic()
    prior = {n: torch.rand_like(p) for n, p in ours.named_parameters()}
    mixed = {
        n: 0.75 * prior[n] / prior[n].mean() + 0.25 * d / d.mean()
        for (n, _), d in zip(ours.named_parameters(), ours.d, strict=True)
    }
    spec = srft.Hutchinson(beta=0.0, blend=0.25, method="autograd", every=100)
    optimizer = srft.SRFT(AdamW(ours.named_parameters(), lr=0.01), prior=prior, curvature=spec, normalize="tensor")
    reference = srft.SRFT(AdamW(theirs.named_parameters(), lr=0.01), prior=mixed, normalize="tensor")
    optimizer.step(closure_of(ours, ours.loss, "autograd"))
    reference.step(closure_of(theirs, theirs.loss, "finite_difference"))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


class Bowl(nn.Module):
    """A small network of two layers, whose curvature moves as it learns."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        self.x = torch.randn(6, 3, generator=generator, dtype=torch.float64)

    def loss(self) -> Tensor:
        return self.net(self.x).square().mean()


@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize("how", ["forward", "central", "autograd"])
def test_what_a_step_folds_is_what_a_pass_of_its_own_folds(how: str, probes: int) -> None:
    model, beside = Bowl(), Bowl()
    method: Any = "autograd" if how == "autograd" else "finite_difference"
    options: dict[str, Any] = {} if how == "autograd" else {"difference": how}
    spec = srft.Hutchinson(every=2, beta=0.6, probes=probes, method=method, seed=2**40 + 7, **options)
    optimizer = srft.SRFT(AdamW(model.named_parameters(), lr=0.05), curvature=spec, kappa=0.5, damping="rank")
    names = [n for n, _ in model.named_parameters()]
    found = [torch.zeros_like(p) for p in beside.parameters()]
    in_pass = []
    run = optimizer._plans.run

    def watched(work: Any, *arguments: Any) -> None:
        in_pass.append(bool(work.plus))
        run(work, *arguments)

    optimizer._plans.run = watched  # type: ignore[method-assign]
    for step in range(6):
        due = step % 2 == 0
        if due:
            beside.load_state_dict(model.state_dict())
            estimate(spec, list(beside.parameters()), found, step // 2, closure_of(beside, beside.loss, method))
        optimizer.step(closure_of(model, model.loss, method if due else "finite_difference"))
        for n, p, h in zip(names, model.parameters(), found, strict=True):
            torch.testing.assert_close(optimizer.state[p]["curvature"], h, rtol=1e-9, atol=1e-9, msg=f"{n} at {step}")
    assert in_pass == [False, False, True, False, True, False]  # the first has no means to go by


@pytest.mark.parametrize("inner", [AdamW, RMSprop])  # folded in the step's pass, and in one of its own
def test_a_product_that_is_not_finite_leaves_the_curvature_alone(inner: Any) -> None:
    model = Quadratic(torch.float32)
    calls: list[int] = []

    def loss() -> Tensor:
        value = model.loss()
        # The second evaluation of the second draw: an infinite gradient for one element of theta.
        return value + (1e38 * 1e38 * model.theta[1, 2] if len(calls) == 5 else 0.0)

    optimizer = srft.SRFT(inner(model.named_parameters(), lr=0.01), curvature=srft.Hutchinson(every=2))
    for _ in range(2):
        optimizer.step(closure_of(model, loss, "finite_difference", calls))
    before = optimizer.state[model.theta]["curvature"].clone()
    optimizer.step(closure_of(model, loss, "finite_difference", calls))
    after = optimizer.state[model.theta]["curvature"]
    assert len(calls) == 5
    assert bool(after.isfinite().all())
    kept = torch.zeros_like(before, dtype=torch.bool)
    kept[1, 2] = True
    assert torch.equal(after == before, kept)


def test_evaluations_are_as_many_as_promised() -> None:
    model = Quadratic(torch.float32)
    calls: list[int] = []
    spec = srft.Hutchinson(every=4, probes=2)
    optimizer = srft.SRFT(AdamW(model.named_parameters()), curvature=spec)
    counts = []
    for _ in range(9):
        calls.clear()
        optimizer.step(closure_of(model, model.loss, "finite_difference", calls))
        counts.append(len(calls))
    assert counts == [3, 1, 1, 1, 3, 1, 1, 1, 3]


def test_a_resumed_run_gives_the_same_bits() -> None:
    def begin() -> tuple[Quadratic, srft.SRFT]:
        model = Quadratic(torch.float32)
        spec = srft.Hutchinson(every=3, beta=0.7)
        return model, srft.SRFT(AdamW(model.named_parameters(), lr=0.01), curvature=spec, kappa=0.5, damping="rank")

    whole, straight = begin()
    train(straight, whole, whole.loss, 8, "finite_difference")
    first, stopped = begin()
    train(stopped, first, first.loss, 4, "finite_difference")
    second, resumed = begin()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    train(resumed, second, second.loss, 4, "finite_difference")
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = Quadratic()
    optimizer = srft.SRFT(AdamW(model.named_parameters()), curvature=srft.Hutchinson(method="autograd"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="not call backward"):
        optimizer.step(closure_of(model, model.loss, "finite_difference"))
    other = srft.SRFT(AdamW(model.named_parameters()), curvature=srft.Hutchinson())
    with pytest.raises(RuntimeError, match="must call backward"):
        other.step(closure_of(model, model.loss, "autograd"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for wrong in ({"every": 0}, {"probes": 1.5}, {"beta": 1.0}, {"blend": 0.0}, {"method": "x"}, {"step": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            srft.Hutchinson(**wrong)  # type: ignore[arg-type]


def test_the_page_runs() -> None:
    page = (REPOSITORY / "docs" / "curvature.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {
        "torch": torch,
        "srft": srft,
        "model": nn.Linear(3, 2),
        "batch": torch.ones(4, 3),
        "loss_fn": lambda model, batch: model(batch).square().sum(1),
    }
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(block, names)
    assert names["optimizer"].state[names["model"].weight]["curvature"].any()
