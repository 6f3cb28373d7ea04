"""What a step works on, and the plan that a backend makes of it once and calls in every step.

A plan keeps whatever does not change from step to step. If no tensor has moved, a step costs the host little more than
the launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.layouts import Layouts, look


@dataclass
class StepTensors:
    """The tensors of one parameter group, all on one device and laid out alike.

    Every list has one entry for each parameter, or is empty if it is not used. An entry without elements means that
    this parameter has no such tensor (no anchor, no prior). State is float64 for float64 parameters and float32 for all
    others; an anchor may also have its parameter's dtype. ``transfers`` is empty if ``second_moments`` serves as T.
    ``previous`` is written before an unfused inner step and read after it. ``paths`` add up -g (new theta - theta) in
    every fused step.

    ``steps`` (n,) float32 counts the steps taken. ``statistics`` (n, STATISTICS) float64 describes T and H as the last
    step left them. ``scales`` (n, SCALES) float64 holds numbers that change seldom. :mod:`.contract` lists the columns
    of both.
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


# The lists of StepTensors that a plan keeps, in the order of the columns in csrc/core/contract.h.
STATE_LISTS = (
    *("first_moments", "second_moments", "max_second_moments", "previous"),
    *("anchors", "priors", "transfers", "curvatures", "paths"),
)


@dataclass
class StepCall:
    """What one step brings that its plan does not know.

    Attributes:
        params: As in the :class:`StepTensors`, with the same sizes and dtypes. Their memory may have moved since.
        grads: The gradients, laid out as ``params``. The list is empty in ``Phase.AFTER``. A step changes them only in
            ``Phase.BEFORE``.
        settings: The values of :class:`.contract.Setting` as numbers, or as a float64 vector on the parameters' device,
            which the kernels read when they run (under a captured graph: at every replay).
        report: ``(REPORT,)`` float64 on the parameters' device. A step adds to it, except for what ``RESET_PENALTIES``
            says.
        flags: An ``int`` of :class:`.flags.StepFlags`.
        phase: A :class:`.contract.Phase`.
        found_inf: float32, one element, on the device, or None. If it is not zero, the step changes nothing; with
            ``COUNT_SKIPPED`` it still counts the elements that are not finite.
        grad_scale: float32, one element, on the device, by which gradients are divided; or None.
        plus: With ``FOLD``, z (plus - minus) is folded into the curvatures. Laid out and scaled as ``grads``.
        minus: As ``plus``. An empty list stands for zeros, or with ``FOLD_GRADIENT`` for the gradients.
        seen_params: What the caller saw of ``params``, if it has looked at them already; for one step.
        seen_grads: What it saw of ``grads``, likewise.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    settings: Sequence[float] | Tensor
    report: Tensor
    flags: int
    phase: int
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None
    plus: Sequence[Tensor] = ()
    minus: Sequence[Tensor] = ()
    seen_params: Layouts | None = None
    seen_grads: Layouts | None = None

    def looks(self) -> tuple[Layouts, Layouts, Layouts, Layouts]:
        """Return the looks at parameters, gradients, ``plus`` and ``minus``: those that the caller had, or new ones."""
        return (
            self.seen_params or look(self.params),
            self.seen_grads or look(self.grads),
            look(self.plus),
            look(self.minus),
        )

    def skipped_by_host(self) -> bool:
        """Return whether ``found_inf`` skips this step. If so, the step is complete when this returns.

        This is for backends whose host waits for the device anyway.
        """
        if self.found_inf is None or not bool(self.found_inf):
            return False
        if self.flags & contract.COUNT_SKIPPED:
            count_nonfinite(self.grads, self.report)
        return True

    def settings_on_host(self) -> list[float]:
        """Return the settings as numbers, with ``grad_scale`` divided out."""
        values = self.settings.tolist() if isinstance(self.settings, Tensor) else list(self.settings)
        if self.grad_scale is not None:
            values[contract.Setting.GRADIENT_FACTOR] /= float(self.grad_scale)
        return values


class StepPlan(Protocol):
    """One backend's plan for some :class:`StepTensors`."""

    def step(self, call: StepCall) -> None:
        """Take one step, in place."""


def count_nonfinite(grads: Sequence[Tensor], report: Tensor) -> None:
    """Add the number of elements that are not finite to ``report``. A skipped step does nothing else."""
    for grad in grads:
        report[contract.NONFINITE] += (~grad.isfinite()).sum()


__all__ = ["STATE_LISTS", "Layouts", "StepCall", "StepPlan", "StepTensors", "count_nonfinite", "look"]
