"""The κ schedules follow their formulas, refuse wrong options, and survive a weights-only checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srft_kernels.schedule import (
    ConstantKappa,
    CosineKappa,
    ExponentialKappa,
    Kappa,
    LinearKappa,
    SigmoidKappa,
    as_schedule,
    evaluate,
    schedule_from_state,
    schedule_state,
)

positive = st.floats(1e-3, 1.0)


@given(total=st.integers(1, 500), start=positive, end=positive)
def test_ramps_follow_their_formulas(total: int, start: float, end: float) -> None:
    steps = np.arange(total)
    # Each truth is written another way than the code: half-angle, numpy's linspace, geomspace.
    cosine = end + (start - end) * np.cos(0.5 * np.pi * steps / total) ** 2
    linear = np.linspace(start, end, total + 1)[:-1]
    exponential = np.geomspace(start, end, total + 1)[:-1]
    for schedule, truth in (
        (CosineKappa(total, start, end), cosine),
        (LinearKappa(total, start, end), linear),
        (ExponentialKappa(total, start, end), exponential),
    ):
        np.testing.assert_allclose([schedule(int(s)) for s in steps], truth, rtol=1e-12)
        assert schedule(0) == pytest.approx(start, rel=1e-15)
        assert [schedule(total), schedule(total + 1), schedule(10 * total + 7)] == [end] * 3


def test_defaults_hand_over_from_prior_to_transfer() -> None:
    assert [CosineKappa(4)(s) for s in range(6)] == pytest.approx(
        [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0.0, 0.0], abs=1e-15
    )
    assert [LinearKappa(4)(s) for s in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [ConstantKappa()(s) for s in (0, 10**9)] == [1.0, 1.0]
    assert ExponentialKappa(2)(1) == pytest.approx(0.1)


@given(step=st.integers(0, 10**6), k=st.floats(1e-6, 1e3), t0=st.floats(-1e6, 1e6))
def test_a_sigmoid_follows_its_formula(step: int, k: float, t0: float) -> None:
    """The truth is the logistic function written as a hyperbolic tangent, which overflows nowhere, and its symmetry."""
    kappa = SigmoidKappa(k, t0)(step)
    assert kappa == pytest.approx(0.5 - 0.5 * np.tanh(0.5 * k * (step - t0)), abs=1e-15)
    assert SigmoidKappa(k, step)(step) == 0.5
    logit = k * (t0 - step)
    if abs(logit) < 700:  # and where the hyperbolic tangent has rounded the tail away, by its logarithm
        assert np.log(kappa) == pytest.approx(-np.logaddexp(0.0, -logit), rel=1e-12)


def test_the_sigmoid_is_what_recadam_leaves_of_one() -> None:
    """RecAdam's λ(t) = 1 / (1 + exp(-k (t - t0))) is compared at its first steps, which it counts from 1."""
    schedule = SigmoidKappa(0.5, t0=3 - 1)
    recadam = [1 / (1 + math.exp(-0.5 * (t - 3))) for t in range(1, 8)]
    assert [1 - schedule(step) for step in range(7)] == pytest.approx(recadam, rel=1e-15)
    assert SigmoidKappa(1.0, 1000.0)(0) == 1.0
    assert SigmoidKappa(1.0, 1000.0)(10_000) == 0.0
    assert [type(SigmoidKappa(1, 2)(step)) for step in (0, 2, 4)] == [float] * 3


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CosineKappa(0), "total_steps"),
        (lambda: CosineKappa(-3), "total_steps"),
        (lambda: CosineKappa(True), "total_steps"),
        (lambda: LinearKappa(10.0), "total_steps"),  # type: ignore[arg-type]
        (lambda: LinearKappa(10, start=1.5), "start"),
        (lambda: LinearKappa(10, start=math.nan), "start"),
        (lambda: LinearKappa(10, end=-0.1), "end"),
        (lambda: LinearKappa(10, end="0"), "end"),  # type: ignore[arg-type]
        (lambda: ExponentialKappa(10, end=0.0), "end"),
        (lambda: ExponentialKappa(10, start=0.0), "start"),
        (lambda: SigmoidKappa(0.0, 10.0), "k must"),
        (lambda: SigmoidKappa(-0.1, 10.0), "k must"),
        (lambda: SigmoidKappa(math.inf, 10.0), "k must"),
        (lambda: SigmoidKappa(True, 10.0), "k must"),
        (lambda: SigmoidKappa(0.1, math.nan), "t0 must"),
        (lambda: SigmoidKappa(0.1, "10"), "t0 must"),  # type: ignore[arg-type]
        (lambda: ConstantKappa(2.0), "value"),
        (lambda: as_schedule(-1.0), "kappa"),
        (lambda: as_schedule("cosine"), "kappa"),  # type: ignore[arg-type]
        (lambda: CosineKappa(10)(-1), "step"),
        (lambda: SigmoidKappa(0.1, 10.0)(-1), "step"),
        (lambda: ConstantKappa()(-1), "step"),
    ],
)
def test_unfit_arguments_are_refused_by_name(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        CosineKappa(7, 0.9, 0.1),
        LinearKappa(3),
        ExponentialKappa(5, 0.8, 0.02),
        SigmoidKappa(0.1, 250.0),
        ConstantKappa(0.25),
    ],
)
def test_state_survives_a_weights_only_checkpoint(schedule: Kappa, tmp_path: Path) -> None:
    torch.save({"kappa": schedule_state(schedule)}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["kappa"]
    assert set(map(type, loaded.values())) <= {str, int, float}
    assert schedule_from_state(loaded) == schedule


def test_a_custom_callable_leaves_a_marker_and_is_needed_again() -> None:
    def warm(step: int) -> float:
        return 1.0 / (1 + step)

    state = schedule_state(as_schedule(warm))
    assert state["type"] == "custom"
    assert "warm" in str(state["name"])
    assert schedule_from_state(state, live=warm) is warm
    with pytest.raises(ValueError, match="warm"):
        schedule_from_state(state)


def test_a_live_callable_does_not_replace_a_saved_schedule() -> None:
    assert schedule_from_state(LinearKappa(3).state(), live=lambda step: 0.5) == LinearKappa(3)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"type": "SawtoothKappa"},
        {"type": "LinearKappa"},
        {"type": "SigmoidKappa", "k": 0.1},
        {"type": "ConstantKappa", "value": 1.0, "x": 1},
        {"type": "LinearKappa", "total_steps": 0, "start": 1.0, "end": 0.0},
    ],
)
def test_foreign_state_is_refused(state: dict[str, str | int | float]) -> None:
    with pytest.raises(ValueError, match=r"kappa schedule|fields|total_steps"):
        schedule_from_state(state)


@pytest.mark.parametrize("answer", [math.nan, -0.01, 1.01, math.inf])
def test_a_custom_answer_outside_the_unit_interval_is_refused(answer: float) -> None:
    with pytest.raises(ValueError, match="step 3"):
        evaluate(lambda step: answer, 3)
    assert evaluate(CosineKappa(2), 1) == pytest.approx(0.5)
