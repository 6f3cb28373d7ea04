"""Triton's interpreter, made faithful and bearable for the tests of kernels on the CPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from srft_kernels.ops.triton import launch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def faithful_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use large blocks, and bfloat16 rounded to nearest.

    An operation costs the interpreter the same for any number of elements. Devices round to nearest, and the
    interpreter does not.
    """
    if not INTERPRETED:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    monkeypatch.setattr(launch, "BLOCK", launch.CHUNK)
    builder = interpreter.InterpreterBuilder
    truncate = builder.create_fp_trunc

    def nearest(self: Any, source: Any, target: Any) -> Any:
        if target.scalar != tl.bfloat16 or source.dtype.scalar != tl.float32:
            return truncate(self, source, target)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
        return interpreter.TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    monkeypatch.setattr(builder, "create_fp_trunc", nearest)
