"""A step with numbers at the edges of floating point does what is defined, and every backend does the same."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, RMSprop

import srft_kernels as srft
from srft_kernels.ops.native import library

BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not library.available, reason=library.reason))]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_inner = pytest.mark.parametrize("kind", [AdamW, SGD, RMSprop], ids=lambda kind: kind.__name__)
SIZE = 64


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linspace(-1.0, 1.0, SIZE, dtype=torch.float64).to(dtype)


def wrapped(p: nn.Parameter, prior: Tensor | None, kind: Any = AdamW, lr: float = 0.1, **options: Any) -> srft.SRFT:
    return srft.SRFT(kind([p], lr=lr), None if prior is None else {p: prior}, **options)


def is_sound(optimizer: srft.SRFT, p: Tensor) -> bool:
    """Return whether weights, state and penalty are finite."""
    tensors = [p.detach(), optimizer.penalty, *optimizer.state[p].values()]
    return all(bool(torch.as_tensor(t).isfinite().all()) for t in tensors)


# ---------------------------------------------------------------- strengths and weights of the pull


@each_backend
@pytest.mark.parametrize("mode", ["proximal", "decoupled", "coupled"])
@pytest.mark.parametrize("strength", [0.0, 1e-30, 1.0, 1e12])
def test_every_strength_is_the_definition(strength: float, mode: Any, backend: Any) -> None:
    """One step of SGD agrees with the definition: in float64, and in float32 to its rounding."""
    for dtype, rounding in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        p = nn.Parameter(start(dtype))
        prior = torch.linspace(0.0, 2.0, SIZE, dtype=torch.float64)
        anchor = start() + 0.5
        optimizer = wrapped(
            p, prior, SGD, strength=strength, kappa=1.0, mode=mode, anchor={p: anchor.to(dtype)}, backend=backend
        )
        p.grad = torch.ones(SIZE, dtype=dtype)
        optimizer.step()
        theta, a = start(torch.float64), anchor.double()
        unit = prior / prior.mean() * strength
        w = 0.1 * unit / a.square().mean().sqrt()
        proposed = theta - 0.1
        expected = {
            "proximal": (proposed + w * a) / (1 + w),
            "decoupled": proposed - w * (proposed - a),
            "coupled": theta - 0.1 * (1 + unit * (theta - a)),
        }[mode]
        torch.testing.assert_close(p.detach().double(), expected, rtol=rounding, atol=rounding)
        assert is_sound(optimizer, p)


@each_backend
@each_inner
@pytest.mark.parametrize("damping", ["rank", "mean", None])
def test_a_learning_rate_of_zero_leaves_every_weight(kind: Any, damping: Any, backend: Any) -> None:
    p = nn.Parameter(start())
    anchor = {p: start() + 0.5}
    optimizer = wrapped(p, start().abs(), kind, lr=0.0, anchor=anchor, kappa=0.5, damping=damping, backend=backend)
    for _ in range(3):
        p.grad = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
        optimizer.step()
    assert torch.equal(p.detach(), start())
    assert is_sound(optimizer, p)


# ---------------------------------------------------------------- gradients and priors


@each_backend
@each_inner
@pytest.mark.parametrize("damping", ["rank", "mean", None])
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-30, 1e15])
def test_gradients_of_any_size_leave_finite_weights(kind: Any, damping: Any, size: float, backend: Any) -> None:
    p = nn.Parameter(start())
    optimizer = wrapped(p, start().abs(), kind, lr=1e-3, kappa=0.5, damping=damping, backend=backend)
    for step in range(3):
        p.grad = size * torch.randn(SIZE, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    assert is_sound(optimizer, p)
    assert int(optimizer.nonfinite_count) == 0
    if size == 0.0 and kind is not AdamW:  # AdamW decays
        assert torch.equal(p.detach(), start())


@each_backend
@each_inner
def test_a_prior_of_zeros_is_none(kind: Any, backend: Any) -> None:
    p, q = nn.Parameter(start()), nn.Parameter(start())
    pair = [wrapped(p, torch.zeros(SIZE), kind, backend=backend), wrapped(q, None, kind, kappa=1.0, backend=backend)]
    for x, optimizer in zip((p, q), pair, strict=True):
        x.grad = start() * 3
        optimizer.step()
    torch.testing.assert_close(p, q, rtol=0, atol=torch.finfo(torch.float32).eps)  # of other compiled loops
    assert float(pair[0].penalty) == 0.0


@each_backend
@pytest.mark.parametrize("normalize", ["tensor", "global"])
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 1e38])
def test_only_the_proportions_of_a_prior_count(size: float, normalize: Any, backend: Any) -> None:
    """The scale of a prior in float32 does not matter, because it is divided by its mean."""
    results = []
    for scale in (1.0, size):
        p = nn.Parameter(start())
        prior = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(SIZE // 2) * scale
        optimizer = wrapped(p, prior.float(), SGD, kappa=1.0, normalize=normalize, backend=backend, strength=3.0)
        for _ in range(2):
            p.grad = torch.ones(SIZE)
            optimizer.step()
        assert is_sound(optimizer, p)
        results.append((p.detach().clone(), optimizer.penalty))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-5, atol=0)


@each_backend
def test_a_prior_of_denormal_numbers_is_none(backend: Any) -> None:
    """The inverse of a denormal number is no number in float32, and such numbers have lost their digits."""
    p = nn.Parameter(start())
    optimizer = wrapped(p, torch.full((SIZE,), 1e-42), SGD, strength=1e12, backend=backend)
    for _ in range(2):
        p.grad = torch.ones(SIZE)
        optimizer.step()
    torch.testing.assert_close(p.detach(), start() - 0.2, rtol=0, atol=1e-6)
    assert float(optimizer.penalty) == 0.0


@each_backend
@each_inner
@pytest.mark.parametrize(("damping", "anchored"), [("rank", "previous"), ("mean", "previous"), (None, "initial")])
def test_elements_that_are_not_finite_are_held_and_counted(
    kind: Any, damping: Any, anchored: Any, backend: Any
) -> None:
    p = nn.Parameter(start())
    optimizer = wrapped(p, start().abs(), kind, kappa=0.5, damping=damping, transfer_anchor=anchored, backend=backend)
    values = (math.nan, math.inf, -math.inf)
    for step, value in enumerate(itertools.chain(values, values)):
        p.grad = torch.ones(SIZE)
        p.grad[step % 3] = value
        optimizer.step()
    assert is_sound(optimizer, p)
    assert int(optimizer.nonfinite_count) == 6
    everywhere = nn.Parameter(start())
    optimizer = wrapped(everywhere, None, kind, damping=damping, backend=backend)
    everywhere.grad = torch.full((SIZE,), math.nan)
    optimizer.step()
    assert torch.equal(everywhere.detach(), start())
    assert is_sound(optimizer, everywhere)


# ---------------------------------------------------------------- kappa and time


@pytest.mark.parametrize("kappa", [-1e-9, 1.0 + 1e-9, math.nan, math.inf])
def test_kappa_outside_of_zero_to_one_is_refused_before_anything_changes(kappa: float) -> None:
    p = nn.Parameter(start())
    with pytest.raises(ValueError, match="kappa must be"):
        wrapped(p, start().abs(), kappa=kappa)
    q = nn.Parameter(start())  # in the second of two groups
    late = {"params": [q], "kappa": lambda step: kappa if step else 1.0}
    optimizer = srft.SRFT(AdamW([{"params": [p]}, late], lr=0.1), {p: start().abs()})
    p.grad, q.grad = torch.ones(SIZE), torch.ones(SIZE)
    optimizer.step()
    before = p.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[p].items()}
    with pytest.raises(ValueError, match="must be in"):
        optimizer.step()
    assert torch.equal(p.detach(), before)
    assert all(torch.equal(optimizer.state[p][name], value) for name, value in state.items())


@each_backend
@pytest.mark.parametrize("steps", [1e6, 2.0**24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_after_a_million_steps_it_is_torchs_step(steps: float, dtype: torch.dtype, backend: Any) -> None:
    """The count is a float32, which ends at 2^24. By then the bias correction has long been one."""
    p, q = nn.Parameter(start(dtype)), nn.Parameter(start(dtype))
    plain = AdamW([q], lr=0.1)
    optimizer = wrapped(p, None, kappa=1.0, backend=backend)
    for x, o in ((p, optimizer), (q, plain)):
        x.grad = torch.cos(start(dtype))
        o.step()
        o.state[x]["step"].fill_(steps)
        o.state[x]["exp_avg"].copy_(torch.sin(start(dtype)))
        o.state[x]["exp_avg_sq"].fill_(0.5)
        o.step()
    torch.testing.assert_close(p, q, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    assert float(optimizer.state[p]["step"]) >= steps


@each_backend
def test_a_schedule_at_its_ends_and_far_beyond(backend: Any) -> None:
    p = nn.Parameter(start())
    optimizer = wrapped(p, start().abs(), kappa=srft.CosineKappa(10), backend=backend)
    for updates, kappa in ((0, 1.0), (10, 0.0), (10**6, 0.0)):
        optimizer.param_groups[0]["updates"] = updates
        assert optimizer.kappa == kappa
        p.grad = torch.ones(SIZE)
        optimizer.step()
        assert is_sound(optimizer, p)
