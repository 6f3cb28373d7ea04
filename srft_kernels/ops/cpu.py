"""The compiled CPU kernels. A plan is a group of tensors that ``csrc/cpu/step.cpp`` holds, and checks in every step."""

from __future__ import annotations

import weakref

import torch

from srft_kernels.ops.plan import STATE_LISTS, StepCall, StepTensors


class CpuPlan:
    """A :class:`.plan.StepPlan` of the compiled CPU kernels.

    Args:
        tensors: The tensors of the group.

    Raises:
        RuntimeError: If tensors have other sizes, dtypes, devices or layouts than :class:`.plan.StepTensors` says, or
            share memory. The constructor raises it, and a step does too for what has changed since. Nothing is written
            then.
    """

    def __init__(self, tensors: StepTensors) -> None:
        lists = [getattr(tensors, name) for name in STATE_LISTS]
        self._group: int = torch.ops.srft.hold_group(
            tensors.params, *lists, tensors.steps, tensors.statistics, tensors.scales
        )
        weakref.finalize(self, torch.ops.srft.drop_group, self._group).atexit = False

    def step(self, call: StepCall) -> None:
        """Take one step, as :meth:`.plan.StepPlan.step` defines it."""
        if call.skipped_by_host():
            return
        params, grads, plus, minus = call.looks()
        torch.ops.srft.step_group_.default(
            self._group,
            params.take(),
            grads.take(),
            plus.take(),
            minus.take(),
            call.settings_on_host(),
            call.report,
            call.flags,
            call.phase,
        )
