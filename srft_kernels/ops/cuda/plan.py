"""A parameter group's step on a GPU by the compiled kernels, with one launch for each dtype and few hundred tensors."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.native import cuda_library
from srft_kernels.ops.plan import STATE_LISTS, StepCall, StepTensors


class CudaPlan:
    """A :class:`.plan.StepPlan` of the compiled CUDA kernels. ``csrc/cuda/plan.cpp`` divides it into launches.

    Args:
        tensors: What the plan is made over.
        module: The library; None takes the installed one.

    Raises:
        RuntimeError: When the plan is made, if the tensors have other sizes, dtypes, devices or layouts than
            :class:`.plan.StepTensors` says, or share memory. In a step, also if one has changed since. Nothing is
            written then.
    """

    def __init__(self, tensors: StepTensors, module: Any = None) -> None:
        operators = getattr(torch.ops, (module or cuda_library.build).operators)
        self._statistics = tensors.statistics
        lists = [getattr(tensors, name) for name in STATE_LISTS]
        self._group: int = operators.hold_group(
            tensors.params, *lists, tensors.steps, tensors.statistics, tensors.scales
        )
        weakref.finalize(self, operators.drop_group, self._group).atexit = False
        self._step: Any = operators.step_group_.default
        self.launches: int = operators.launches_of_group(self._group)

    def step(self, call: StepCall) -> None:
        """Take one step, as :meth:`.plan.StepPlan.step` defines it."""
        on_device = isinstance(call.settings, Tensor)
        params, grads, plus, minus = call.looks()
        self._step(
            self._group,
            params.take(),
            grads.take(),
            plus.take(),
            minus.take(),
            _NO_SETTINGS if on_device else call.settings,
            call.settings if on_device else None,
            self._global_sums(StepFlags.of(call.flags)),
            call.found_inf,
            call.grad_scale,
            call.report,
            call.flags,
            call.phase,
        )

    def _global_sums(self, flags: StepFlags) -> Tensor | None:
        """Return the sum and the count of T over all tensors if a step divides by their common mean, else None."""
        if not flags.means_globally:
            return None
        return self._statistics[:, contract.SUM : contract.COUNT + 1].sum(dim=0)


_NO_SETTINGS = [0.0] * contract.SETTINGS
