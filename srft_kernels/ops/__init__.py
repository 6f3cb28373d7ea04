"""Which implementation takes a step: compiled kernels where there are some, Triton's on a device without, the reference
everywhere else.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch

from srft_kernels.ops import contract, cuda_penalty, cuda_probe, operator_arguments, reference  # noqa: F401  (kernels register themselves)
from srft_kernels.ops.native import CpuPlan, CudaPlan, cuda_library, library
from srft_kernels.ops.plan import OperatorPlan, StepPlan, StepTensors

Backend = Literal["native", "triton", "reference"]
PlanMaker: TypeAlias = Callable[[StepTensors], StepPlan]

# For every device without kernels; a kernel registered for a device goes before it.
contract.LIBRARY.impl("step_", reference.step, "CompositeExplicitAutograd")


def triton_available() -> tuple[bool, str]:
    """Whether the Triton kernels can run here, and why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed (pip install triton)"
    from srft_kernels.ops import triton as kernels

    return kernels.available()


def cuda_unavailable(device: torch.device) -> str:
    """Why the compiled CUDA kernels do not serve a device; empty if they do."""
    if not cuda_library.available:
        return cuda_library.reason
    if torch.version.hip:
        return "the CUDA kernels do not run on AMD's devices"
    try:
        cuda_library.build.devices()
    except RuntimeError as error:  # the runtime in the library wants a newer driver than torch's
        return f"the CUDA kernels cannot run under this driver: {error}"
    major, minor = torch.cuda.get_device_capability(device)
    if not serves(cuda_library.build.architectures, major, minor):
        return (
            f"the CUDA kernels were built for {cuda_library.build.architectures} and not for this device, "
            f"{major}.{minor}: build again with TORCH_CUDA_ARCH_LIST naming it"
        )
    return ""


def serves(architectures: str, major: int, minor: int) -> bool:
    """Whether code for ``architectures`` ("8.0 9.0 12.0+PTX") runs on a device of that capability."""
    for name in architectures.replace(";", " ").split():
        number = name.removesuffix("+PTX").rstrip("af")
        built = tuple(int(part) for part in number.split("."))
        # "9.0a" runs on 9.0 and nowhere else, its PTX included.
        plain = name.removesuffix("+PTX") == number
        later = (built[0] == major and built[1] <= minor) or (name.endswith("+PTX") and built <= (major, minor))
        if built == (major, minor) or (plain and later):
            return True
    return False


def plan_maker(backend: Backend | None, device: torch.device) -> tuple[Backend, PlanMaker]:
    """The backend that serves a device, and what makes its plans: the best for ``None``, else that of the name.

    Raises:
        RuntimeError: If a backend was asked for by name and cannot run; the message says why and what to do.
        ValueError: For a name that is not a backend.
    """
    if backend not in (None, "native", "triton", "reference"):
        raise ValueError(f"backend must be None, 'native', 'triton' or 'reference', got {backend!r}")
    missing = {}
    if backend in (None, "native"):
        if device.type == "cpu":
            missing["native"] = library.reason
        elif device.type == "cuda":
            missing["native"] = cuda_unavailable(device)
        else:
            missing["native"] = f"there are no compiled kernels for {device.type} devices"
        if not missing["native"]:
            return "native", CudaPlan if device.type == "cuda" else CpuPlan
    if backend == "triton" or (backend is None and device.type == "cuda"):
        usable, why = triton_available()
        if usable:
            from srft_kernels.ops.triton import TritonPlan

            return "triton", TritonPlan
        missing["triton"] = why
    if backend in missing:
        raise RuntimeError(f"backend={backend!r} was asked for, but {missing[backend]}")
    # Not the operator, which for CUDA tensors comes back here.
    return "reference", functools.partial(OperatorPlan, reference.step)


def _step_on_device(*arguments: Any) -> None:
    """``srft::step_`` for CUDA tensors: a plan for one call. :class:`SRFT` keeps its plans."""
    operator_arguments.step(plan_maker(None, arguments[0][0].device)[1], arguments)


contract.LIBRARY.impl("step_", _step_on_device, "CUDA")
