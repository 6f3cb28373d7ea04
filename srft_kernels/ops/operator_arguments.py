"""A plan's step from the arguments of ``srft::step_``, whose counts and statistics are tensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract, preview
from srft_kernels.ops.plan import StepPlan, StepTensors


def step(make_plan: Callable[[StepTensors], StepPlan], arguments: tuple[Any, ...]) -> None:
    """Take the step that ``arguments`` (:mod:`.contract`) describe with a plan made for it."""
    (params, grads, first, second, maximum, steps, previous, anchors, priors) = arguments[:9]
    (scales, transfers, curvatures, plus, minus, paths, statistics, settings, report, flags, phase) = arguments[9:]
    tensors = StepTensors(
        params=params,
        steps=torch.stack(steps),
        statistics=torch.stack(statistics),
        scales=scales.to(params[0].device),
        first_moments=first,
        second_moments=second,
        max_second_moments=maximum,
        previous=previous,
        anchors=anchors,
        priors=priors,
        transfers=transfers,
        curvatures=curvatures,
        paths=paths,
    )
    if preview.gathers(flags) and phase != contract.Phase.AFTER:
        preview.fill(tensors, grads, settings.tolist(), flags, None)
    plan = make_plan(tensors)
    plan.step(params, grads, _moved(settings, params[0]), report, flags, phase, plus=plus, minus=minus)
    torch._foreach_copy_(steps, list(tensors.steps.unbind()))
    torch._foreach_copy_(statistics, list(tensors.statistics.unbind()))


def _moved(settings: Tensor, to: Tensor) -> Tensor | list[float]:
    return settings if settings.device == to.device else settings.tolist()
