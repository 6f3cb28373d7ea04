"""Operators over lists of tensors with random signs, which are computed where they are used.

A probe z has elements -1 and +1, each with probability one half (Rademacher), as the Hutchinson estimator of a diagonal
wants them (Bekas, Kokiopoulou and Saad, 2007). No probe is stored. An element's sign follows from five numbers, so a
kernel that needs it again computes it again, on any device and in any order.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11). Its
key is ``(seed low 32 bits, seed high 32 bits)``, its counter ``(block low, block high, tensor, step)`` with ``block =
element // 128``, and the sign of an element is bit ``element % 32`` of output word ``element % 128 // 32``: 0 is +1 and
1 is -1. ``element`` counts a dense tensor's elements in memory order. ``tensor`` is a number that the caller gives each
tensor, and ``step`` is one that the caller gives each draw.

Every kernel is bound to this arithmetic: float64 for a float64 parameter (or, in an estimate, a float64 ``plus``) and
float32 for all others, whatever the storage. Each product and each sum is rounded by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.tensors import element_dtype, is_dense, lie_alike

contract.LIBRARY.define("fill_probes_(Tensor(a!)[] out, int seed, int step, int[] tensors) -> ()")
contract.LIBRARY.define(
    "perturb_(Tensor(a!)[] params, Tensor[] originals, float scale, int seed, int step, int[] tensors) -> ()"
)
contract.LIBRARY.define(
    "fold_probes_(Tensor(a!)[] estimates, Tensor[] plus, Tensor[] minus, float decay, float weight, int seed, "
    "int step, int[] tensors) -> ()"
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_WORD = 0xFFFFFFFF


# ---------------------------------------------------------------- what is refused


def _check(what: str, lists: dict[str, Sequence[Tensor]], step: int, tensors: Sequence[int]) -> None:
    """Refuse lists that do not belong together, before anything is changed. The operator changes the first list."""
    (leading, first), *others = lists.items()
    for name, listed in (*others, ("tensors", tensors)):
        if len(listed) != len(first):
            raise ValueError(f"{what} needs as many {name} as {leading}, got {len(listed)} for {len(first)}")
    if not 0 <= step <= _WORD:
        raise ValueError(f"{what} needs a step from 0 to 2^32 - 1, got {step}")
    for k, number in enumerate(tensors):
        if not 0 <= number <= _WORD:
            raise ValueError(f"{what} needs numbers of tensors from 0 to 2^32 - 1, got {number} at position {k}")
    for name, listed in lists.items():
        for k, t in enumerate(listed):
            if t.dtype not in DTYPES:
                raise ValueError(
                    f"{what} needs {name} of float32, float64, bfloat16 or float16, got {t.dtype} at position {k}"
                )
            if not is_dense(t):
                raise ValueError(
                    f"{what} counts elements as they lie in memory, so {name} must be dense; that at position {k} has "
                    f"shape {tuple(t.shape)} and strides {t.stride()}"
                )
            if not lie_alike(t, first[k]):
                raise ValueError(
                    f"{what}: {name} and {leading} at position {k} are laid out differently: shape {tuple(t.shape)} "
                    f"and strides {t.stride()} against {tuple(first[k].shape)} and {first[k].stride()}"
                )
            if t.device != first[0].device:
                raise ValueError(
                    f"{what} needs all tensors on one device, got {name} on {t.device} at position {k} and {leading} "
                    f"on {first[0].device}"
                )


def check_fill(out: Sequence[Tensor], step: int, tensors: Sequence[int]) -> None:
    """Raise ``ValueError`` unless the arguments of ``fill_probes_`` belong together."""
    _check("fill_probes_", {"out": out}, step, tensors)


def check_perturb(params: Sequence[Tensor], originals: Sequence[Tensor], step: int, tensors: Sequence[int]) -> None:
    """Raise ``ValueError`` unless the arguments of ``perturb_`` belong together."""
    _check("perturb_", {"params": params, "originals": originals}, step, tensors)


def check_fold(
    estimates: Sequence[Tensor], plus: Sequence[Tensor], minus: Sequence[Tensor], step: int, tensors: Sequence[int]
) -> None:
    """Raise ``ValueError`` unless the arguments of ``fold_probes_`` belong together."""
    lists = {"estimates": estimates, "plus": plus} | ({"minus": minus} if minus else {})
    _check("fold_probes_", lists, step, tensors)
    for k, (h, p) in enumerate(zip(estimates, plus, strict=True)):
        if h.dtype != element_dtype(p):
            raise ValueError(
                f"fold_probes_ needs estimates of float64 for a float64 plus and of float32 for every other, got "
                f"{h.dtype} for {p.dtype} at position {k}"
            )


# ---------------------------------------------------------------- what kernels of one dtype a list are given


def readable(original: Tensor, param: Tensor) -> Tensor:
    """Return ``original`` as a kernel that perturbs ``param`` reads it.

    It is cast to the compute dtype unless it already has that or the parameter's dtype.
    """
    real = element_dtype(param)
    return original if original.dtype in (real, param.dtype) else original.to(real)


def of_one_dtype(
    estimates: Sequence[Tensor], plus: Sequence[Tensor], minus: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return both lists of gradients with one dtype at each position: the compute dtype if the two differ there."""
    if not minus:
        return list(plus), []
    common = [p.dtype if p.dtype == m.dtype else h.dtype for h, p, m in zip(estimates, plus, minus, strict=True)]
    return (
        [t.to(dtype) for t, dtype in zip(plus, common, strict=True)],
        [t.to(dtype) for t, dtype in zip(minus, common, strict=True)],
    )


# ---------------------------------------------------------------- the operators without memory


@torch.library.register_fake("srft::fill_probes_", lib=contract.LIBRARY)
def _fill_fake(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    check_fill(out, step, tensors)


@torch.library.register_fake("srft::perturb_", lib=contract.LIBRARY)
def _perturb_fake(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    check_perturb(params, originals, step, tensors)


@torch.library.register_fake("srft::fold_probes_", lib=contract.LIBRARY)
def _fold_fake(
    estimates: Sequence[Tensor],
    plus: Sequence[Tensor],
    minus: Sequence[Tensor],
    decay: float,
    weight: float,
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> None:
    check_fold(estimates, plus, minus, step, tensors)


# ---------------------------------------------------------------- what others call


def _signed(seed: int) -> int:
    """Return a seed as an operator takes it, a signed 64-bit number. ``torch.initial_seed()`` may set bit 63."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed has 64 bits, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def _changed(tensors: Sequence[Tensor]) -> None:
    """Tell autograd that tensors have changed. Otherwise it would differentiate with values that are gone."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])


@torch.no_grad()
def fill_probes_(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """Set ``out[k] <- z``, the probe of ``seed`` and ``step`` for the tensors numbered ``tensors``."""
    torch.ops.srft.fill_probes_(out, _signed(seed), step, tensors)
    _changed(out)


@torch.no_grad()
def perturb_(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """Set ``param <- original + scale z``.

    ``originals`` are laid out as ``params``, have any of the four dtypes, and may be ``params`` themselves.
    """
    torch.ops.srft.perturb_(params, originals, scale, _signed(seed), step, tensors)
    _changed(params)


@torch.no_grad()
def fold_probes_(
    estimates: Sequence[Tensor],
    plus: Sequence[Tensor],
    minus: Sequence[Tensor],
    decay: float,
    weight: float,
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> None:
    """Set ``H <- decay H + weight z (plus - minus)``. An empty ``minus`` stands for zeros.

    Estimates are float64 if ``plus`` is, else float32.
    """
    torch.ops.srft.fold_probes_(estimates, plus, minus, decay, weight, _signed(seed), step, tensors)
    _changed(estimates)
