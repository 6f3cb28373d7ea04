"""A parameter group's step on a GPU by the compiled kernels, with one launch for each dtype and few hundred tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.cuda import current_stream
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.native import cuda_library
from srft_kernels.ops.plan import STATE_LISTS, StepCall, StepTensors
from srft_kernels.ops.tensors import DTYPE_CODES, addresses


class CudaPlan:
    """A :class:`.plan.StepPlan` of the compiled CUDA kernels. ``csrc/cuda/plan.cpp`` divides it into launches."""

    def __init__(self, tensors: StepTensors, module: Any = None) -> None:
        module = module or cuda_library.build
        device = tensors.steps.device
        self._tensors = tensors  # keeps the tensors alive, because the plan holds their addresses
        self._device = device
        self._scratch = torch.zeros(module.scratch_bytes(len(tensors.params)), dtype=torch.uint8, device=device)
        anchors = tensors.anchors or tensors.params
        self._plan = module.Plan(
            sizes=[p.numel() for p in tensors.params],
            dtypes=[DTYPE_CODES[p.dtype] for p in tensors.params],
            anchor_dtypes=[
                DTYPE_CODES[a.dtype if a.numel() else p.dtype] for a, p in zip(anchors, tensors.params, strict=True)
            ],
            columns={name: addresses(getattr(tensors, name)) for name in STATE_LISTS if getattr(tensors, name)},
            steps=tensors.steps.data_ptr(),
            statistics=tensors.statistics.data_ptr(),
            scales=tensors.scales.data_ptr(),
            device=device.index or 0,
            scratch=self._scratch.data_ptr(),
        )
        self.launches: int = self._plan.launches

    def step(self, call: StepCall) -> None:
        """Take one step, as :meth:`.plan.StepPlan.step` defines it."""
        on_device = isinstance(call.settings, Tensor)
        means = self._global_sums(StepFlags.of(call.flags))
        # The library has read these before this function returns, so the local name keeps them long enough.
        moving = call.addresses()
        self._plan.step(
            *((column.data_ptr(), column.numel()) for column in moving),
            [0.0] * contract.SETTINGS if on_device else call.settings,
            call.settings.data_ptr() if on_device else 0,  # type: ignore[union-attr]
            0 if means is None else means.data_ptr(),
            0 if call.found_inf is None else call.found_inf.data_ptr(),
            0 if call.grad_scale is None else call.grad_scale.data_ptr(),
            call.report.data_ptr(),
            call.flags,
            call.phase,
            current_stream(self._device),
        )

    def _global_sums(self, flags: StepFlags) -> Tensor | None:
        """Return the sum and the count of T over all tensors if a step divides by their common mean, else None."""
        if not flags.means_globally:
            return None
        return self._tensors.statistics[:, contract.SUM : contract.COUNT + 1].sum(dim=0)
