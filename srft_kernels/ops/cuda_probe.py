"""Probes on a GPU: the compiled kernels, else Triton's, behind the operators of :mod:`.probe`.

Seed, step and scales travel with the launch, so a captured graph draws the same probe at every replay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract, probe
from srft_kernels.ops.native import DTYPES, addresses, cuda_library, current_stream
from srft_kernels.ops.penalty import element_dtype


def readable(tensor: Tensor, real: torch.dtype, beside: torch.dtype) -> Tensor:
    """As the kernels read it: of the dtype ``beside`` which it stands or of the arithmetic's, to which it is else
    converted as they would.
    """
    return tensor if tensor.dtype in (real, beside) else tensor.to(real)


def gradients(
    estimates: Sequence[Tensor], plus: Sequence[Tensor], minus: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Both lists as the kernels read them: of one dtype at each position, the arithmetic's where they differ."""
    if not minus:
        return list(plus), []
    common = [p.dtype if p.dtype == m.dtype else h.dtype for h, p, m in zip(estimates, plus, minus, strict=True)]
    return (
        [t.to(dtype) for t, dtype in zip(plus, common, strict=True)],
        [t.to(dtype) for t, dtype in zip(minus, common, strict=True)],
    )


class CudaProbe:
    """The compiled probe kernels: one launch for each combination of dtypes, and for every few hundred tensors."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def fill(self, out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
        """:func:`.probe.fill_reference`."""
        probe.check_fill(out, step, tensors)
        self._module.fill_probes(**_described(out, [], [], seed, step, tensors))

    def perturb(
        self,
        params: Sequence[Tensor],
        originals: Sequence[Tensor],
        scale: float,
        seed: int,
        step: int,
        tensors: Sequence[int],
    ) -> None:
        """:func:`.probe.perturb_reference`."""
        probe.check_perturb(params, originals, step, tensors)
        read = [readable(o, element_dtype(p), p.dtype) for o, p in zip(originals, params, strict=True)]
        self._module.perturb(**_described(params, read, [], seed, step, tensors), scale=scale)

    def fold(
        self,
        estimates: Sequence[Tensor],
        plus: Sequence[Tensor],
        minus: Sequence[Tensor],
        decay: float,
        weight: float,
        seed: int,
        step: int,
        tensors: Sequence[int],
    ) -> None:
        """:func:`.probe.fold_reference`."""
        probe.check_fold(estimates, plus, minus, step, tensors)
        plus, minus = gradients(estimates, plus, minus)
        self._module.fold_probes(**_described(estimates, plus, minus, seed, step, tensors), decay=decay, weight=weight)


def _described(
    targets: Sequence[Tensor],
    read: Sequence[Tensor],
    minus: Sequence[Tensor],
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> dict[str, Any]:
    device = targets[0].device if targets else torch.device("cpu")
    absent = [0] * len(targets)
    columns = [addresses(listed) if listed else absent for listed in (targets, read, minus)]
    return {
        "sizes": [t.numel() for t in targets],
        "numbers": list(tensors),
        "dtypes": [DTYPES[t.dtype] for pair in zip(targets, read or targets, strict=True) for t in pair],
        "addresses": [place for places in zip(*columns, strict=True) for place in places],
        "seed": seed & (2**64 - 1),
        "step": step,
        "device": device.index or 0,
        "stream": current_stream(device),
    }


_REFERENCE = (probe.fill_reference, probe.perturb_reference, probe.fold_reference)


@functools.cache
def _kernels(device: torch.device) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """Fill, perturb and fold by the best implementation that serves a device."""
    from srft_kernels.ops import plan_maker

    backend, _ = plan_maker(None, device)
    if backend == "native":
        compiled = CudaProbe(cuda_library.build)
        return compiled.fill, compiled.perturb, compiled.fold
    if backend == "triton":
        from srft_kernels.ops.triton_probe import fill, fold, perturb

        return fill, perturb, fold
    return _REFERENCE


def _run(which: int, *arguments: Any) -> None:
    targets = arguments[0]
    on_device = targets and targets[0].device.type == "cuda"
    # Else lists are of several devices, or of several lengths, which plain torch refuses.
    (_kernels(targets[0].device) if on_device else _REFERENCE)[which](*arguments)


for _which, _name in enumerate(("fill_probes_", "perturb_", "fold_probes_")):
    contract.LIBRARY.impl(_name, functools.partial(_run, _which), "CUDA")
