"""The generator of :mod:`srft_kernels.ops.probe` and its operators in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.ops.tensors import element_dtype, in_memory_order

SIGNS = 128  # the signs of one block of Philox: four words of 32 bits

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after every round


# ---------------------------------------------------------------- the generator


def _product(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and the low half of the 64-bit product of two 32-bit numbers, in int64 without overflow."""
    low, high = multiplier * (word & 0xFFFF), multiplier * (word >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _WORD


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four words for every counter by Philox4x32-10. Words are int64 from 0 to 2^32 - 1."""
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
    """Return the first ``size`` elements of a probe in memory order: (size,) of ``dtype``."""
    block = torch.arange(-(-size // SIGNS), dtype=torch.int64, device=device)
    counter = (block & _WORD, block >> 32, torch.full_like(block, tensor), torch.full_like(block, step))
    words = torch.stack(philox(counter, (seed & _WORD, seed >> 32 & _WORD)), dim=1)
    bits = words.unsqueeze(2) >> torch.arange(32, device=device) & 1
    return (1 - 2 * bits).view(-1)[:size].to(dtype)


# ---------------------------------------------------------------- the operators in plain torch


def fill_reference(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """Set ``out <- z``."""
    for t, number in zip(out, tensors, strict=True):
        in_memory_order(t).copy_(signs(t.numel(), seed, step, number, dtype=t.dtype, device=t.device))


def perturb_reference(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """Set ``param <- original + scale z``."""
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
    """Set ``H <- decay H + weight z (plus - minus)``."""
    for k, (h, p, number) in enumerate(zip(estimates, plus, tensors, strict=True)):
        z = signs(h.numel(), seed, step, number, dtype=h.dtype, device=h.device)
        difference = in_memory_order(p).to(h.dtype)
        if minus:
            difference = difference - in_memory_order(minus[k]).to(h.dtype)
        flat = in_memory_order(h)
        flat.copy_(decay * flat + weight * z * difference)
