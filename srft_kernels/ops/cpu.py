"""The compiled CPU kernels: a plan is a group of tensors that ``csrc/cpu/step.cpp`` holds and checks in every step."""

from __future__ import annotations

import weakref

import torch

from srft_kernels.ops.plan import STATE_LISTS, StepCall, StepTensors


class CpuPlan:
    """A :class:`.plan.StepPlan` of the compiled CPU kernels.

    Raises:
        RuntimeError: When made, for tensors of other sizes, dtypes, devices or layouts than :class:`.plan.StepTensors`
            says, or that share memory; in a step also for what has changed since. Nothing is written then.
    """

    def __init__(self, tensors: StepTensors) -> None:
        lists = [getattr(tensors, name) for name in STATE_LISTS]
        self._group: int = torch.ops.srft.hold_group(
            tensors.params, *lists, tensors.steps, tensors.statistics, tensors.scales
        )
        weakref.finalize(self, torch.ops.srft.drop_group, self._group).atexit = False

    def step(self, call: StepCall) -> None:
        """:meth:`.plan.StepPlan.step`."""
        if call.skipped_by_host():
            return
        torch.ops.srft.step_group_.default(
            self._group,
            call.params,
            call.grads,
            call.plus,
            call.minus,
            call.settings_on_host(),
            call.report,
            call.flags,
            call.phase,
        )
