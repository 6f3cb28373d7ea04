"""Reading and writing a chunk's elements, for the kernels over many tensors."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pointers_to(address, start, lane, ELEMENT: tl.constexpr, WIDE: tl.constexpr):
    """A chunk's elements at ``lane``; WIDE promises that they lie at multiples of 16 bytes."""
    pointers = address.to(tl.pointer_type(ELEMENT)) + start + lane
    if WIDE:
        pointers = tl.multiple_of(pointers, 16)
    return pointers
