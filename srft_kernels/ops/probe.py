"""Random signs that are computed where they are used: operators over lists of tensors, and their plain-torch form.

A probe z has elements -1 and +1, each with probability one half (Rademacher), as the Hutchinson estimator of a diagonal
wants them (Bekas, Kokiopoulou and Saad, 2007). Nothing of it is stored: an element's sign follows from five numbers, so
a kernel that needs it again computes it again, on any device and in any order.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11). Its
key is ``(seed low 32 bits, seed high 32 bits)``, its counter ``(block low, block high, tensor, step)`` with
``block = element // 128``, and the sign of an element is bit ``element % 32`` of output word ``element % 128 // 32``:
0 is +1 and 1 is -1. ``element`` counts a dense tensor's elements as they lie in memory; ``tensor`` is a number that the
caller gives each tensor, and ``step`` one of the draw.

Arithmetic, binding for every kernel: float64 for a float64 parameter (``plus``, for an estimate), float32 for all
others, whatever the storage; products and sums are rounded one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.penalty import element_dtype

contract.LIBRARY.define("fill_probes_(Tensor(a!)[] out, int seed, int step, int[] tensors) -> ()")
contract.LIBRARY.define(
    "perturb_(Tensor(a!)[] params, Tensor[] originals, float scale, int seed, int step, int[] tensors) -> ()"
)
contract.LIBRARY.define(
    "fold_probes_(Tensor(a!)[] estimates, Tensor[] plus, Tensor[] minus, float decay, float weight, int seed, "
    "int step, int[] tensors) -> ()"
)

SIGNS = 128  # of one block of Philox: four words of 32 bits
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after every round


# ---------------------------------------------------------------- the generator


def _product(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low half of the 64-bit product of two 32-bit numbers, in int64 that never overflows."""
    low, high = multiplier * (word & 0xFFFF), multiplier * (word >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _WORD


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words for every counter. Words are int64 from 0 to 2^32 - 1."""
    a, b, c, d = counter
    first, second = key
    for _ in range(_ROUNDS):
        high_a, low_a = _product(_MULTIPLIERS[0], a)
        high_c, low_c = _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + _WEYL[0]) & _WORD, (second + _WEYL[1]) & _WORD
    return a, b, c, d


def signs(
    size: int,
    seed: int,
    step: int,
    tensor: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The first ``size`` elements of a probe, in the order of memory: (size,) of ``dtype``."""
    block = torch.arange(-(-size // SIGNS), dtype=torch.int64, device=device)
    counter = (block & _WORD, block >> 32, torch.full_like(block, tensor), torch.full_like(block, step))
    words = torch.stack(philox(counter, (seed & _WORD, seed >> 32 & _WORD)), dim=1)
    bits = words.unsqueeze(2) >> torch.arange(32, device=device) & 1
    return (1 - 2 * bits).view(-1)[:size].to(dtype)


# ---------------------------------------------------------------- what is refused


def _check(what: str, lists: dict[str, Sequence[Tensor]], step: int, tensors: Sequence[int]) -> None:
    """Refuse lists that do not belong together, before anything is changed. The first list is the one that is."""
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
            if not torch.ops.aten.is_non_overlapping_and_dense.default(t):
                raise ValueError(
                    f"{what} counts elements as they lie in memory, so {name} must be dense; that at position {k} has "
                    f"shape {tuple(t.shape)} and strides {t.stride()}"
                )
            if t.shape != first[k].shape or (t.stride() != first[k].stride() and not _flat(t, first[k])):
                raise ValueError(
                    f"{what}: {name} and {leading} at position {k} are laid out differently: shape {tuple(t.shape)} "
                    f"and strides {t.stride()} against {tuple(first[k].shape)} and {first[k].stride()}"
                )
            if t.device != first[0].device:
                raise ValueError(
                    f"{what} needs all tensors on one device, got {name} on {t.device} at position {k} and {leading} "
                    f"on {first[0].device}"
                )


def _flat(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors of one shape lie alike though strides of dimensions of size one differ."""
    return a.numel() == 0 or all(
        size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def check_fill(out: Sequence[Tensor], step: int, tensors: Sequence[int]) -> None:
    _check("fill_probes_", {"out": out}, step, tensors)


def check_perturb(params: Sequence[Tensor], originals: Sequence[Tensor], step: int, tensors: Sequence[int]) -> None:
    _check("perturb_", {"params": params, "originals": originals}, step, tensors)


def check_fold(
    estimates: Sequence[Tensor], plus: Sequence[Tensor], minus: Sequence[Tensor], step: int, tensors: Sequence[int]
) -> None:
    lists = {"estimates": estimates, "plus": plus} | ({"minus": minus} if minus else {})
    _check("fold_probes_", lists, step, tensors)
    for k, (h, p) in enumerate(zip(estimates, plus, strict=True)):
        if h.dtype != element_dtype(p):
            raise ValueError(
                f"fold_probes_ needs estimates of float64 for a float64 plus and of float32 for every other, got "
                f"{h.dtype} for {p.dtype} at position {k}"
            )


# ---------------------------------------------------------------- the operators in plain torch


def in_memory_order(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor as they lie in memory, which is how they are numbered: a view."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,))


def fill_reference(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """``out <- z``."""
    check_fill(out, step, tensors)
    for t, number in zip(out, tensors, strict=True):
        in_memory_order(t).copy_(signs(t.numel(), seed, step, number, dtype=t.dtype, device=t.device))


def perturb_reference(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """``param <- original + scale z``."""
    check_perturb(params, originals, step, tensors)
    for p, original, number in zip(params, originals, tensors, strict=True):
        real = element_dtype(p)
        z = signs(p.numel(), seed, step, number, dtype=real, device=p.device)
        in_memory_order(p).copy_(in_memory_order(original).to(real) + scale * z)


def fold_reference(
    estimates: Sequence[Tensor],
    plus: Sequence[Tensor],
    minus: Sequence[Tensor],
    decay: float,
    weight: float,
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> None:
    """``H <- decay H + weight z (plus - minus)``."""
    check_fold(estimates, plus, minus, step, tensors)
    for k, (h, p, number) in enumerate(zip(estimates, plus, tensors, strict=True)):
        z = signs(h.numel(), seed, step, number, dtype=h.dtype, device=h.device)
        difference = in_memory_order(p).to(h.dtype)
        if minus:
            difference = difference - in_memory_order(minus[k]).to(h.dtype)
        flat = in_memory_order(h)
        flat.copy_(decay * flat + weight * z * difference)


contract.LIBRARY.impl("fill_probes_", fill_reference, "CompositeExplicitAutograd")
contract.LIBRARY.impl("perturb_", perturb_reference, "CompositeExplicitAutograd")
contract.LIBRARY.impl("fold_probes_", fold_reference, "CompositeExplicitAutograd")


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
    """A seed as an operator takes it: `torch.initial_seed()` may have bit 63 set."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed has 64 bits, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def _changed(tensors: Sequence[Tensor]) -> None:
    """Let autograd know, which would else differentiate with values that are no longer there."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])


@torch.no_grad()
def fill_probes_(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """``out[k] <- z``: the probe of ``seed`` and ``step`` for the tensors numbered ``tensors``, written out."""
    torch.ops.srft.fill_probes_(out, _signed(seed), step, tensors)
    _changed(out)


@torch.no_grad()
def perturb_(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """``param <- original + scale z``. ``originals`` are laid out as ``params``, of any of the four dtypes, and may be
    ``params`` themselves.
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
    """``H <- decay H + weight z (plus - minus)``; an empty ``minus`` is zero. Estimates are float64 where ``plus`` is,
    else float32.
    """
    torch.ops.srft.fold_probes_(estimates, plus, minus, decay, weight, _signed(seed), step, tensors)
    _changed(estimates)
