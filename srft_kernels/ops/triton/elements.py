"""The elements of a chunk: which they are, reading and writing them. For the kernels over many tensors."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def extent(chunk, first_chunk, size, CHUNK: tl.constexpr):
    """Where a chunk begins in its tensor, and how many elements it has. ``first_chunk`` is the tensor's first."""
    start = (chunk - first_chunk) * CHUNK
    return start, tl.minimum(size - start, CHUNK).to(tl.int32)


@triton.jit
def is_wide(count, addresses, CHUNK: tl.constexpr):
    """Whether a chunk is whole and lies at multiples of 16 bytes. ``addresses`` is the bitwise or of its tensors'."""
    return (count == CHUNK) & (addresses % 16 == 0)


@triton.jit
def existing(lane, count, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Which lanes of a block are elements of the chunk: all, where it is whole."""
    exists = tl.full([BLOCK], 1, tl.int32) != 0
    if not WIDE:
        exists = lane < count
    return exists


@triton.jit
def pointers_to(address, start, lane, ELEMENT: tl.constexpr, WIDE: tl.constexpr):
    """A chunk's elements at ``lane``; WIDE promises that they lie at multiples of 16 bytes."""
    pointers = address.to(tl.pointer_type(ELEMENT)) + start + lane
    if WIDE:
        pointers = tl.multiple_of(pointers, 16)
    return pointers


@triton.jit
def spread(condition, BLOCK: tl.constexpr):
    """A condition on scalars as a mask. By way of an integer: the interpreter gets a comparison's type wrong."""
    return tl.broadcast_to(tl.where(condition, 1, 0), [BLOCK]) != 0
