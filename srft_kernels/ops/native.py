"""The compiled libraries, for the CPU and for CUDA: found, loaded, described, and the plans that they run.

Absent is a state like any other; asked for by name and absent is an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.plan import StepTensors, count_nonfinite
from srft_kernels.ops.preview import gathers, means_globally

LIBRARY_FILE = Path(__file__).resolve().parent.parent / "_ops.so"


class NativeLibrary:
    """What :func:`load` found. ``available`` is False where the library was not built or does not load; ``reason`` says
    why.
    """

    def __init__(self, build: Any, reason: str) -> None:
        self.build = build
        self.reason = reason

    @property
    def available(self) -> bool:
        return self.build is not None

    def capability(self) -> str:
        """The instruction set that the CPU kernels use on this machine."""
        return str(self.build.capability())


def load() -> NativeLibrary:
    if not LIBRARY_FILE.exists():
        return NativeLibrary(
            None, f"{LIBRARY_FILE.name} was not built: install with a C++ compiler present (pip install .)"
        )
    try:
        torch.ops.load_library(str(LIBRARY_FILE))
        return NativeLibrary(importlib.import_module("srft_kernels._build"), "")
    except (OSError, ImportError) as error:
        return NativeLibrary(None, f"{LIBRARY_FILE.name} does not load under torch {torch.__version__}: {error}")


def load_cuda() -> NativeLibrary:
    """The CUDA library, which needs nothing of torch; whether there is a device is another question."""
    if not any(LIBRARY_FILE.parent.glob("_cuda.*")):  # of this package, not of another that Python would find too
        return NativeLibrary(
            None, "the CUDA kernels were not built: install with nvcc and a CUDA build of torch present (pip install .)"
        )
    try:
        return NativeLibrary(importlib.import_module("srft_kernels._cuda"), "")
    except ImportError as error:
        return NativeLibrary(None, f"the CUDA kernels do not load: {error}")


library = load()
cuda_library = load_cuda()

# csrc/core/dtype.h has the same numbers.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
LISTS = (
    *("previous", "first_moments", "second_moments", "max_second_moments"),
    *("anchors", "priors", "transfers", "curvatures", "paths"),
)


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Where tensors begin; 0 for one without elements."""
    return [t.data_ptr() if t.numel() else 0 for t in tensors]


def current_stream(device: torch.device) -> int:
    """torch's current stream on a device, as the library takes it; 0 on a host that stands in for one."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _described(tensors: StepTensors) -> dict[str, Any]:
    """What both libraries' plans are made from."""
    anchors = tensors.anchors or tensors.params
    return {
        "sizes": [p.numel() for p in tensors.params],
        "dtypes": [DTYPES[p.dtype] for p in tensors.params],
        "anchor_dtypes": [
            DTYPES[a.dtype if a.numel() else p.dtype] for a, p in zip(anchors, tensors.params, strict=True)
        ],
        "columns": {name: addresses(getattr(tensors, name)) for name in LISTS if getattr(tensors, name)},
        "steps": tensors.steps.data_ptr(),
        "statistics": tensors.statistics.data_ptr(),
        "scales": tensors.scales.data_ptr(),
    }


class CpuPlan:
    """The compiled CPU kernels over some tensors."""

    def __init__(self, tensors: StepTensors) -> None:
        self._tensors = tensors  # the plan holds their addresses
        self._plan = library.build.Plan(**_described(tensors))

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
        """:meth:`.plan.StepPlan.step`."""
        if found_inf is not None and bool(found_inf):
            if flags & contract.COUNT_SKIPPED:
                count_nonfinite(grads, report)
            return
        values = settings.tolist() if isinstance(settings, Tensor) else list(settings)
        if grad_scale is not None:
            values[contract.Setting.GRADIENT_FACTOR] /= float(grad_scale)
        self._plan.step(
            [p.data_ptr() for p in params],
            [g.data_ptr() for g in grads],
            [g.data_ptr() for g in plus],
            [g.data_ptr() for g in minus],
            values,
            report.data_ptr(),
            flags,
            phase,
        )


class CudaPlan:
    """The CUDA kernels over some tensors: one launch a dtype, and for every few hundred tensors of it."""

    def __init__(self, tensors: StepTensors, module: Any = None) -> None:
        module = module or cuda_library.build
        device = tensors.steps.device
        self._tensors = tensors  # the plan holds their addresses
        self._device = device
        self._scratch = torch.zeros(module.scratch_bytes(len(tensors.params)), dtype=torch.uint8, device=device)
        self._plan = module.Plan(**_described(tensors), device=device.index or 0, scratch=self._scratch.data_ptr())
        self.launches: int = self._plan.launches

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
        """:meth:`.plan.StepPlan.step`."""
        on_device = isinstance(settings, Tensor)
        means = _global_sums(self._tensors.statistics, flags)
        self._plan.step(
            [p.data_ptr() for p in params],
            [g.data_ptr() for g in grads],
            [g.data_ptr() for g in plus],
            [g.data_ptr() for g in minus],
            [0.0] * contract.SETTINGS if isinstance(settings, Tensor) else settings,
            settings.data_ptr() if on_device else 0,  # type: ignore[union-attr]
            0 if means is None else means.data_ptr(),
            0 if found_inf is None else found_inf.data_ptr(),
            0 if grad_scale is None else grad_scale.data_ptr(),
            report.data_ptr(),
            flags,
            phase,
            current_stream(self._device),
        )


def _global_sums(statistics: Tensor, flags: int) -> Tensor | None:
    """Sum and count of T over all tensors, where a step divides by their common mean."""
    if not (gathers(flags) and means_globally(flags)):
        return None
    return statistics[:, contract.SUM : contract.COUNT + 1].sum(dim=0)
