"""Schedules of κ, which leads from prior significance (κ = 1) to transfer significance (κ = 0).

A schedule is any callable from a step (0 before the first one) to a float in [0, 1]. The ones here are frozen values
that can be compared, and saved as plain dictionaries of strings and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

Kappa: TypeAlias = Callable[[int], float]
State: TypeAlias = dict[str, str | int | float]

CUSTOM = "custom"


def _check_steps(total_steps: object) -> None:
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(
            f"total_steps must be a positive int, the step from which kappa stays at its end, got {total_steps!r}"
        )


def _check_number(name: str, value: object, *, positive: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or (positive and value <= 0.0):  # type: ignore[arg-type, operator]
        raise ValueError(f"{name} must be a finite number{' above 0' * positive}, got {value!r}")


def _check_kappa(name: str, value: object, *, lowest_excluded: bool = False) -> None:
    low = "(0" if lowest_excluded else "[0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0 or (lowest_excluded and value == 0.0):  # type: ignore[operator]
        raise ValueError(f"{name} must be a number in {low}, 1], got {value!r}")


@dataclass(frozen=True)
class _Schedule:
    """What all schedules share. Their fields are their state."""

    def state(self) -> State:
        """Return the schedule as a plain dictionary (``"type"`` and its arguments), for :func:`schedule_from_state`."""
        result: State = {"type": type(self).__name__}
        result.update({f.name: getattr(self, f.name) for f in fields(self)})
        return result

    def __call__(self, step: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class _Ramp(_Schedule):
    """A schedule from ``start`` at step 0 to ``end`` at ``total_steps``, where it stays."""

    total_steps: int
    start: float = 1.0
    end: float = 0.0

    _positive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_steps(self.total_steps)
        _check_kappa("start", self.start, lowest_excluded=self._positive)
        _check_kappa("end", self.end, lowest_excluded=self._positive)

    def __call__(self, step: int) -> float:
        if step < 0:
            raise ValueError(f"a step counts from 0, got {step}")
        if step >= self.total_steps:
            return float(self.end)
        return self._between(step / self.total_steps)

    def _between(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class CosineKappa(_Ramp):
    """κ(t) = end + (start - end) · (1 + cos(π t / T)) / 2. This is the schedule that SRFT recommends."""

    def _between(self, progress: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class LinearKappa(_Ramp):
    """κ(t) = start + (end - start) · t / T."""

    def _between(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class ExponentialKappa(_Ramp):
    """κ(t) = start · (end / start)^(t / T). The ratio from step to step is constant, so neither end may be zero."""

    end: float = 0.01

    _positive: ClassVar[bool] = True

    def _between(self, progress: float) -> float:
        return float(self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True)
class SigmoidKappa(_Schedule):
    """κ(t) = 1 / (1 + exp(k (t - t0))). It is 1/2 at the step ``t0``, and steeper for a larger ``k``.

    It is 1 - λ(t) with the annealing λ(t) of RecAdam (arXiv 2004.12651). RecAdam counts its first step as 1 and a
    schedule here counts it as 0, so RecAdam's t0 is ``t0 + 1``.
    """

    k: float
    t0: float

    def __post_init__(self) -> None:
        _check_number("k", self.k, positive=True)
        _check_number("t0", self.t0)

    def __call__(self, step: int) -> float:
        if step < 0:
            raise ValueError(f"a step counts from 0, got {step}")
        small = math.exp(-abs(self.k * (step - self.t0)))  # of the two ways to write it, this one cannot overflow
        return (small if step > self.t0 else 1.0) / (1.0 + small)


@dataclass(frozen=True)
class ConstantKappa(_Schedule):
    """κ(t) = value. At 1 only the prior holds weights, at 0 only the transfer significance does."""

    value: float = 1.0

    def __post_init__(self) -> None:
        _check_kappa("value", self.value)

    def __call__(self, step: int) -> float:
        if step < 0:
            raise ValueError(f"a step counts from 0, got {step}")
        return float(self.value)


SCHEDULES: dict[str, type[_Schedule]] = {
    schedule.__name__: schedule
    for schedule in (CosineKappa, LinearKappa, ExponentialKappa, SigmoidKappa, ConstantKappa)
}


def as_schedule(kappa: Kappa | float) -> Kappa:
    """Return what a user passed as a schedule. A number becomes a :class:`ConstantKappa`; a callable stays itself."""
    if isinstance(kappa, (int, float)):
        _check_kappa("kappa", kappa)
        return ConstantKappa(kappa)
    if not callable(kappa):
        raise ValueError(
            f"kappa must be a number in [0, 1], a schedule or a callable float(step), got {type(kappa).__name__}"
        )
    return kappa


def evaluate(schedule: Kappa, step: int) -> float:
    """Return κ at ``step``. The answer of a custom callable has to be a finite float in [0, 1].

    Raises:
        ValueError: If it is not.
    """
    value = float(schedule(step))
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"the kappa schedule {schedule!r} answered {value} at step {step}; it must be in [0, 1]")
    return value


def schedule_state(schedule: Kappa) -> State:
    """Return the state of any schedule: its own, or for a custom callable a marker with its name alone."""
    if isinstance(schedule, _Schedule):
        return schedule.state()
    name = getattr(schedule, "__qualname__", type(schedule).__qualname__)
    return {"type": CUSTOM, "name": str(name)}


def schedule_from_state(state: Mapping[str, str | int | float], live: Kappa | None = None) -> Kappa:
    """Return the schedule that :func:`schedule_state` described.

    A custom callable cannot be saved. For its marker the ``live`` schedule is returned.

    Args:
        state: The state.
        live: The schedule that is in use, or None.

    Raises:
        ValueError: For an unknown or incomplete state, or for a marker without a live schedule.
    """
    kind = state.get("type")
    arguments = {name: value for name, value in state.items() if name != "type"}
    if kind == CUSTOM:
        if live is None:
            raise ValueError(
                f"the saved kappa schedule is a custom callable ({state.get('name', 'unnamed')}), "
                "which a checkpoint cannot hold; pass the same callable as kappa before loading"
            )
        return live
    if kind not in SCHEDULES:
        raise ValueError(f"unknown kappa schedule {kind!r} in the saved state; known are {', '.join(SCHEDULES)}")
    known = SCHEDULES[str(kind)]
    expected = {f.name for f in fields(known)}
    if set(arguments) != expected:
        raise ValueError(f"the saved state of {kind} has the fields {sorted(arguments)}, expected {sorted(expected)}")
    return known(**arguments)
