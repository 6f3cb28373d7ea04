"""What a step works on, and what a backend makes of it: a plan, made once and called in every step.

A plan keeps whatever does not change from step to step, so that a step whose tensors are where they were costs the host
little more than the launch.
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

    Every list has one entry a parameter, or is empty where it is not used; an entry without elements means "this
    parameter has none" (an anchor, a prior). State is float64 for float64 parameters and float32 for all others; an
    anchor may also have its parameter's dtype. ``transfers`` is empty where T is ``second_moments``. ``previous`` is
    written before an unfused inner step and read after it. ``paths`` gather -g (new theta - theta) in every fused step.

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


# The lists of StepTensors that a plan keeps, in the order of the columns of csrc/core/contract.h.
STATE_LISTS = (
    *("first_moments", "second_moments", "max_second_moments", "previous"),
    *("anchors", "priors", "transfers", "curvatures", "paths"),
)


@dataclass
class StepCall:
    """What one step brings that its plan does not know.

    Attributes:
        params, grads: As in the :class:`StepTensors`, which had the same sizes and dtypes; their memory may have moved
            since. ``grads`` are laid out as ``params``, are empty in ``Phase.AFTER`` and change only in
            ``Phase.BEFORE``.
        settings: The values of :class:`.contract.Setting`: numbers, or a float64 vector on the parameters' device,
            which is read when the kernels run (under a captured graph: at every replay).
        report: ``(REPORT,)`` float64 on the parameters' device; added to, but for what ``RESET_PENALTIES`` says.
        flags: An ``int`` of :class:`.flags.StepFlags`.
        phase: A :class:`.contract.Phase`.
        found_inf, grad_scale: float32, one element, on the device: a step whose ``found_inf`` is not zero changes
            nothing (it counts the elements that are not finite where ``COUNT_SKIPPED`` is set); gradients are divided
            by ``grad_scale``.
        plus, minus: With ``FOLD``: what z (plus - minus) is folded into the curvatures, laid out and scaled as
            ``grads``. An empty ``minus`` is zero, or with ``FOLD_GRADIENT`` the gradient.
        param_addresses, grad_addresses: Where the caller has looked at these lists already, what it saw.
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
    param_addresses: Tensor | None = None
    grad_addresses: Tensor | None = None

    def addresses(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where parameters, gradients, ``plus`` and ``minus`` lie: int64 on the CPU, each empty or one a parameter."""

        def seen(tensors: Sequence[Tensor], known: Tensor | None) -> Tensor:
            return look(tensors).addresses if known is None else known

        return (
            seen(self.params, self.param_addresses),
            seen(self.grads, self.grad_addresses),
            seen(self.plus, None),
            seen(self.minus, None),
        )

    def skipped_by_host(self) -> bool:
        """For a backend whose host waits anyway: whether ``found_inf`` skips this step, which is then all done."""
        if self.found_inf is None or not bool(self.found_inf):
            return False
        if self.flags & contract.COUNT_SKIPPED:
            count_nonfinite(self.grads, self.report)
        return True

    def settings_on_host(self) -> list[float]:
        """The settings as numbers, with ``grad_scale`` divided out."""
        values = self.settings.tolist() if isinstance(self.settings, Tensor) else list(self.settings)
        if self.grad_scale is not None:
            values[contract.Setting.GRADIENT_FACTOR] /= float(self.grad_scale)
        return values


class StepPlan(Protocol):
    """One backend's plan over some :class:`StepTensors`."""

    def step(self, call: StepCall) -> None:
        """Take one step, in place."""


def count_nonfinite(grads: Sequence[Tensor], report: Tensor) -> None:
    """Add the elements that are not finite to ``report``: all that a step which is skipped does."""
    for grad in grads:
        report[contract.NONFINITE] += (~grad.isfinite()).sum()


__all__ = ["STATE_LISTS", "Layouts", "StepCall", "StepPlan", "StepTensors", "count_nonfinite", "look"]
