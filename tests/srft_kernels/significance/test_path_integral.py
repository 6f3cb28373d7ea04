"""Synaptic intelligence agrees with the paper's formulas written out, and with what it means: the fall of the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, RMSprop

import srft_kernels as srft


def problem(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.randn(16, 2, generator=generator, dtype=torch.float64)


def optimizers(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    named = list(model.named_parameters())
    prior = {n: torch.ones_like(p) for n, p in named}
    return {
        "SGD": SGD(named, lr=0.05, momentum=0.9),
        "SRFT(AdamW)": srft.SRFT(AdamW(named, lr=0.01), prior=prior, kappa=0.5, damping="rank"),
        "SRFT(RMSprop)": srft.SRFT(RMSprop(named, lr=0.01), prior=prior, kappa=0.5, damping="rank"),
    }


@pytest.mark.parametrize("name", ["SGD", "SRFT(AdamW)", "SRFT(RMSprop)"])
def test_it_is_the_papers_formula(name: str) -> None:
    model, x, y = problem()
    optimizer = optimizers(model)[name]
    path = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    with srft.PathIntegral(optimizer) as recorder:
        for _ in range(12):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            gradients = {n: p.grad.clone() for n, p in model.named_parameters()}  # type: ignore[union-attr]
            optimizer.step()
            for n, p in model.named_parameters():
                path[n] -= gradients[n] * (p.detach() - before[n])
    assert bool(recorder._before) == (name != "SRFT(AdamW)")  # the fused step gathers without a copy
    found = recorder.significance(damping=0.05)
    assert (found.estimator, found.info["steps"]) == ("si", 12)
    for n, p in model.named_parameters():
        expected = path[n].clamp(min=0) / ((p.detach() - start[n]).square() + 0.05)
        torch.testing.assert_close(found[n], expected, rtol=1e-12, atol=1e-15)


def test_the_path_integral_is_the_fall_of_the_loss() -> None:
    """This holds in the limit of small steps. Here the remainder is of second order in the step."""
    model, x, y = problem()
    optimizer = SGD(model.named_parameters(), lr=1e-4)
    recorder = srft.PathIntegral(optimizer)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    fall = losses[0] - float((model(x) - y).square().mean())
    gathered = sum(float(t.sum()) for t in recorder._path.values())
    assert abs(gathered - fall) < 1e-3 * fall


def test_a_new_task_begins_where_it_is_said_to() -> None:
    model, x, y = problem()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    recorder = srft.PathIntegral(optimizer)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()

    train(3)
    recorder.restart()
    with pytest.raises(RuntimeError, match="no step was recorded"):
        recorder.significance()
    train(2)
    fresh_model, _, _ = problem()
    fresh = SGD(fresh_model.named_parameters(), lr=0.1)
    second = None
    for step in range(5):
        if step == 3:
            second = srft.PathIntegral(fresh)
        fresh.zero_grad()
        (fresh_model(x) - y).square().mean().backward()
        fresh.step()
    assert second is not None
    for n, t in second.significance().items():
        assert torch.equal(t, recorder.significance()[n])
    kept = recorder.significance()
    recorder.close()
    steps = recorder.steps
    train(1)
    assert recorder.steps == steps
    paths = [list(r._path.values()) for r in (recorder, second)]
    assert all(torch.equal(a, b) for a, b in zip(*paths, strict=True))
    assert len(paths[0]) == len(kept)


@pytest.mark.parametrize("inner", [AdamW, RMSprop])
def test_a_loss_scale_does_not_show(inner: Any) -> None:
    answers = []
    for scale in (1.0, 1024.0):
        model, x, y = problem()
        optimizer = srft.SRFT(inner(model.named_parameters(), lr=0.01))
        recorder = srft.PathIntegral(optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            ((model(x) - y).square().mean() * scale).backward()
            if scale != 1.0:  # as GradScaler does around a step
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)  # type: ignore[attr-defined]
            optimizer.step()
        answers.append(recorder.significance())
    for n, t in answers[0].items():
        torch.testing.assert_close(answers[1][n], t, rtol=1e-9, atol=1e-15)


def test_the_second_recorder_of_one_optimizer_agrees_with_the_first() -> None:
    """The first is gathered in the step's pass, the second around the step."""
    model, x, y = problem()
    optimizer = srft.SRFT(AdamW(model.named_parameters(), lr=0.01))
    recorders = [srft.PathIntegral(optimizer), srft.PathIntegral(optimizer)]
    assert optimizer._record_paths({}) is False
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    first, second = (r.significance() for r in recorders)
    for n, t in first.items():
        torch.testing.assert_close(second[n], t, rtol=1e-9, atol=1e-18)
    recorders[0].close()
    assert optimizer._record_paths({}) is True


def test_a_gradient_that_is_not_finite_does_not_poison_it() -> None:
    model, x, y = problem()
    optimizer = srft.SRFT(AdamW(model.named_parameters(), lr=0.01))
    recorder = srft.PathIntegral(optimizer)
    (model(x) - y).square().mean().backward()
    model[0].weight.grad[0, 0] = float("nan")  # type: ignore[union-attr, index]
    optimizer.step()
    assert all(bool(t.isfinite().all()) for t in recorder.significance().values())


def test_what_cannot_be_recorded_is_refused() -> None:
    model, _, _ = problem()
    with pytest.raises(ValueError, match="have no names"):
        srft.PathIntegral(SGD(model.parameters(), lr=0.1))
    other, _, _ = problem(1)
    with pytest.raises(ValueError, match="none of the parameters"):
        srft.PathIntegral(SGD(model.parameters(), lr=0.1), other.named_parameters())
    with pytest.raises(ValueError, match="damping"):
        srft.PathIntegral(SGD(model.parameters(), lr=0.1), model.named_parameters()).significance(damping=0.0)
    with pytest.raises(ValueError, match="PathIntegral"):
        srft.estimate_prior(model, lambda m, b: m(b).sum(), [torch.ones(2, 4).double()], estimator="si")
