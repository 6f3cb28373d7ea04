"""Chooses which backend serves a device, and registers the operators' kernels.

Compiled kernels come first. Triton's kernels serve a GPU without compiled ones. The reference serves everything else.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from srft_kernels.ops import contract, penalty, probe  # noqa: F401  (they declare the operators)
from srft_kernels.ops.cpu import CpuPlan
from srft_kernels.ops.cuda.penalty import CudaPenalty
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.cuda.probe import CudaProbe
from srft_kernels.ops.native import cuda_library, library
from srft_kernels.ops.plan import StepPlan, StepTensors
from srft_kernels.ops.reference.penalty import penalty_backward_reference, penalty_reference
from srft_kernels.ops.reference.probe import fill_reference, fold_reference, perturb_reference
from srft_kernels.ops.reference.step import ReferencePlan

Backend = Literal["native", "triton", "reference"]
PlanMaker: TypeAlias = Callable[[StepTensors], StepPlan]


def triton_available() -> tuple[bool, str]:
    """Return whether the Triton kernels can run on this machine, and if not, why."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed (pip install triton)"
    from srft_kernels.ops import triton as kernels

    return kernels.available()


def cuda_unavailable(device: torch.device) -> str:
    """Return why the compiled CUDA kernels do not serve a device, or "" if they do."""
    if not cuda_library.available:
        return cuda_library.reason
    if torch.version.hip:
        return "the CUDA kernels do not run on AMD's devices"
    try:
        cuda_library.build.devices()
    except RuntimeError as error:  # the library's CUDA runtime needs a newer driver than torch's
        return f"the CUDA kernels cannot run under this driver: {error}"
    major, minor = torch.cuda.get_device_capability(device)
    if not serves(cuda_library.build.architectures, major, minor):
        return (
            f"the CUDA kernels were built for {cuda_library.build.architectures} and not for this device, "
            f"{major}.{minor}: build again with TORCH_CUDA_ARCH_LIST naming it"
        )
    return ""


def serves(architectures: str, major: int, minor: int) -> bool:
    """Return whether code for ``architectures`` ("8.0 9.0 12.0+PTX") runs on a device of that compute capability."""
    for name in architectures.replace(";", " ").split():
        number = name.removesuffix("+PTX").rstrip("af")
        built = tuple(int(part) for part in number.split("."))
        # Code for "9.0a" runs on 9.0 and nowhere else, and so does its PTX.
        plain = name.removesuffix("+PTX") == number
        later = (built[0] == major and built[1] <= minor) or (name.endswith("+PTX") and built <= (major, minor))
        if built == (major, minor) or (plain and later):
            return True
    return False


def plan_maker(backend: Backend | None, device: torch.device) -> tuple[Backend, PlanMaker]:
    """Return the backend that serves a device, and what makes its plans.

    Args:
        backend: The name of a backend, or None for the best one.
        device: The device of the parameters.

    Returns:
        The backend's name, and a callable that makes a plan from :class:`.plan.StepTensors`.

    Raises:
        RuntimeError: If a backend was requested by name and cannot run. The message says why and what to do.
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
            from srft_kernels.ops.triton.plan import TritonPlan

            return "triton", TritonPlan
        missing["triton"] = why
    if backend in missing:
        raise RuntimeError(f"backend={backend!r} was asked for, but {missing[backend]}")
    return "reference", ReferencePlan


# ---------------------------------------------------------------- the operators' kernels

# The compiled CPU kernels register themselves when their library is loaded, and torch prefers them to these.
_PENALTIES = (penalty_reference, penalty_backward_reference)
_PROBES = (fill_reference, perturb_reference, fold_reference)
_CHECKS: tuple[Callable[..., None], ...] = (probe.check_fill, probe.check_perturb, probe.check_fold)


@functools.cache
def penalty_kernels(device: torch.device) -> tuple[Callable[..., Any], ...]:
    """Return the kernels of the penalty's value and of its gradients that serve a CUDA device best."""
    backend, _ = plan_maker(None, device)
    if backend == "native":
        compiled = CudaPenalty(cuda_library.build)
        return compiled.value, compiled.gradients
    if backend == "triton":
        from srft_kernels.ops.triton.penalty import penalty_gradients, penalty_value

        return penalty_value, penalty_gradients
    return _PENALTIES


@functools.cache
def probe_kernels(device: torch.device) -> tuple[Callable[..., None], ...]:
    """Return the kernels that fill, perturb and fold and that serve a CUDA device best."""
    backend, _ = plan_maker(None, device)
    if backend == "native":
        compiled = CudaProbe(cuda_library.build)
        return compiled.fill, compiled.perturb, compiled.fold
    if backend == "triton":
        from srft_kernels.ops.triton.probe import fill, fold, perturb

        return fill, perturb, fold
    return _PROBES


def _penalty_value(params: Sequence[Tensor], *others: Any) -> Any:
    device = params[0].device if params else others[-1].device  # the strength's device
    return penalty_kernels(device)[0](params, *others)


def _penalty_gradients(grad: Tensor, params: Sequence[Tensor], *others: Any) -> Any:
    device = params[0].device if params else others[-1].device
    return penalty_kernels(device)[1](grad, params, *others)


def _probe(which: int, *arguments: Any) -> None:
    """Check an operator's arguments, once for every backend, and call the one that serves the targets' device."""
    lists, step, tensors = arguments[: which + 1], arguments[-2], arguments[-1]
    _CHECKS[which](*lists, step, tensors)
    targets = lists[0]
    on_device = targets and targets[0].device.type == "cuda"
    (probe_kernels(targets[0].device) if on_device else _PROBES)[which](*arguments)


def _register() -> None:
    everywhere, functional = "CompositeExplicitAutograd", "FuncTorchDynamicLayerFrontMode"
    for name, plain, on_cuda in (
        ("significance_penalty", penalty_reference, _penalty_value),
        ("significance_penalty_backward", penalty_backward_reference, _penalty_gradients),
    ):
        contract.LIBRARY.impl(name, plain, everywhere)
        contract.LIBRARY.impl(name, plain, functional)
        contract.LIBRARY.impl(name, on_cuda, "CUDA")
    for which, name in enumerate(("fill_probes_", "perturb_", "fold_probes_")):
        contract.LIBRARY.impl(name, functools.partial(_probe, which), everywhere)


_register()
