"""The elements of a chunk: which ones they are, and how the kernels over many tensors read and write them."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def extent(chunk, first_chunk, size, CHUNK: tl.constexpr):
    """Return where a chunk begins in its tensor, and its number of elements.

    ``first_chunk`` is the tensor's first chunk.
    """
    start = (chunk - first_chunk) * CHUNK
    return start, tl.minimum(size - start, CHUNK).to(tl.int32)


@triton.jit
def is_wide(count, addresses, CHUNK: tl.constexpr):
    """Return whether a chunk is whole and lies at multiples of 16 bytes.

    ``addresses`` is the bitwise or of its tensors'.
    """
    return (count == CHUNK) & (addresses % 16 == 0)


@triton.jit
def existing(lane, count, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Return which lanes of a block are elements of the chunk. All are if the chunk is whole."""
    exists = tl.full([BLOCK], 1, tl.int32) != 0
    if not WIDE:
        exists = lane < count
    return exists


@triton.jit
def pointers_to(address, start, lane, ELEMENT: tl.constexpr, WIDE: tl.constexpr):
    """Return pointers to a chunk's elements at ``lane``. WIDE promises that they lie at multiples of 16 bytes."""
    pointers = address.to(tl.pointer_type(ELEMENT)) + start + lane
    if WIDE:
        pointers = tl.multiple_of(pointers, 16)
    return pointers


@triton.jit
def spread(condition, BLOCK: tl.constexpr):
    """Return a condition on scalars as a mask.

    It goes through an integer, because the interpreter gets the type of a comparison wrong.
    """
    return tl.broadcast_to(tl.where(condition, 1, 0), [BLOCK]) != 0
