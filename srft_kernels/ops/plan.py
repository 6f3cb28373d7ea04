"""What a step works on, and what a backend makes of it: a plan, made once and called every step.

A plan keeps whatever does not change from step to step, so that a step whose tensors are where they were costs the host
little more than the launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from srft_kernels.ops import contract


@dataclass
class StepTensors:
    """The tensors of one parameter group, all on one device and laid out alike.

    Every list has one entry a parameter, or is empty where it is not used; an entry without elements means "this
    parameter has none" (an anchor, a prior). State is float64 for float64 parameters and float32 for all others; an
    anchor may also have its parameter's dtype.

    ``steps`` (n,) float32 counts the steps taken; ``statistics`` (n, STATISTICS) float64 are of T and H as the last
    step left them; ``scales`` (n, SCALES) float64 are numbers that change seldom (:mod:`.contract` lists both).
    """

    params: list[Tensor]
    steps: Tensor
    statistics: Tensor
    scales: Tensor
    first_moments: list[Tensor] = field(default_factory=list)
    second_moments: list[Tensor] = field(default_factory=list)
    max_second_moments: list[Tensor] = field(default_factory=list)
    previous: list[Tensor] = field(default_factory=list)
    anchors: list[Tensor] = field(default_factory=list)
    priors: list[Tensor] = field(default_factory=list)
    transfers: list[Tensor] = field(default_factory=list)
    curvatures: list[Tensor] = field(default_factory=list)
    paths: list[Tensor] = field(default_factory=list)


class StepPlan(Protocol):
    """One backend's plan over some :class:`StepTensors`."""

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        settings: Sequence[float] | Tensor,
        report: Tensor,
        flags: int,
        phase: int,
        *,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
        plus: Sequence[Tensor] = (),
        minus: Sequence[Tensor] = (),
    ) -> None:
        """Take one step, in place.

        Args:
            params, grads: As in the :class:`StepTensors`, which had the same sizes and dtypes; their memory may have
                moved since. ``grads`` is empty in ``Phase.AFTER`` and changes only in ``Phase.BEFORE``.
            settings: The values of :class:`contract.Setting`: numbers, or a float64 vector on the parameters' device,
                which is read when the kernels run (under a captured graph: at every replay).
            report: ``(REPORT,)`` float64 on the parameters' device; added to, but for what ``RESET_PENALTIES`` says.
            found_inf, grad_scale: float32, one element, on the device: a step whose ``found_inf`` is not zero changes
                nothing (it counts the elements that are not finite where ``COUNT_SKIPPED`` is set); gradients are
                divided by ``grad_scale``.
            plus, minus: With ``FOLD``: what z (plus - minus) is folded into the curvatures, laid out and scaled as
                ``grads``. An empty ``minus`` is zero, or with ``FOLD_GRADIENT`` the gradient.
        """


def count_nonfinite(grads: Sequence[Tensor], report: Tensor) -> None:
    """Add the elements that are not finite to ``report``: all that a step which is skipped does."""
    for grad in grads:
        report[contract.NONFINITE] += (~grad.isfinite()).sum()


class OperatorPlan:
    """A plan for an implementation of ``srft::step_``, which takes everything anew in every call."""

    def __init__(self, operator: object, tensors: StepTensors) -> None:
        self._operator = operator
        self._tensors = tensors
        self._steps = list(tensors.steps.unbind()) if tensors.params else []
        self._statistics = list(tensors.statistics.unbind()) if tensors.params else []

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        settings: Sequence[float] | Tensor,
        report: Tensor,
        flags: int,
        phase: int,
        *,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
        plus: Sequence[Tensor] = (),
        minus: Sequence[Tensor] = (),
    ) -> None:
        t = self._tensors
        if found_inf is not None and bool(found_inf):
            if flags & contract.COUNT_SKIPPED:
                count_nonfinite(grads, report)
            return
        values = torch.as_tensor(settings, dtype=torch.float64)
        if grad_scale is not None:
            values = values.clone()
            values[contract.Setting.GRADIENT_FACTOR] /= grad_scale.double().reshape(()).to(values.device)
        self._operator(  # type: ignore[operator]
            list(params),
            list(grads),
            t.first_moments,
            t.second_moments,
            t.max_second_moments,
            self._steps,
            t.previous,
            t.anchors,
            t.priors,
            t.scales,
            t.transfers,
            t.curvatures,
            list(plus),
            list(minus),
            t.paths,
            self._statistics,
            values,
            report,
            flags,
            phase,
        )
