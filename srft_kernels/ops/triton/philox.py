"""Random signs in Triton by Philox4x32-10, with the same bits as :mod:`srft_kernels.ops.probe`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def signs(seed, step, number, start, REAL: tl.constexpr, CHUNK: tl.constexpr):
    """Return z of a chunk: (CHUNK / 32, 32), with one row for each word of Philox."""
    block = start // 128 + tl.arange(0, CHUNK // 128).to(tl.int64)
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    nothing = tl.zeros([CHUNK // 128], tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, nothing + number.to(tl.uint32), nothing + step.to(tl.uint32), 10)
    words = tl.join(tl.join(a, c), tl.join(b, d)).reshape(CHUNK // 32)
    bits = (words[:, None] >> tl.arange(0, 32).to(tl.uint32)[None, :]) & 1
    return tl.where(bits != 0, -1.0, 1.0).to(REAL)
