"""The Triton backend, for machines with a GPU and no compiled kernels for it.

The step, the penalty and the probes each have a file for the host (tables of addresses, scratch memory, launches) and
one for the device (``*_kernels.py``). They share ``launch.py``, ``elements.py``, ``philox.py`` and ``rank.py``. Nothing
here waits for the device, and nothing is compiled again when a number changes.

If ``TRITON_INTERPRET=1`` is set before this package is imported, the same code runs on CPU tensors, very slowly. Tests
use this.
"""

from __future__ import annotations

import importlib

import torch


def available() -> tuple[bool, str]:
    """Return whether the kernels can run on this machine, and if not, why."""
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return False, f"triton cannot be imported: {error}"
    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        return True, ""
    return False, f"torch {torch.__version__} sees no GPU (TRITON_INTERPRET=1 would run the kernels on the CPU, slowly)"
