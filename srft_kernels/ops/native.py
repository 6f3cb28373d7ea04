"""Finds, loads and describes the compiled libraries for the CPU and for CUDA.

A missing library is not an error unless its backend was requested by name.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

LIBRARY_FILE = Path(__file__).resolve().parent.parent / "_ops.so"


class NativeLibrary:
    """The result of :func:`load` or :func:`load_cuda`.

    ``available`` is False if the library was not built or does not load. ``reason`` says why.
    """

    def __init__(self, build: Any, reason: str) -> None:
        self.build = build
        self.reason = reason

    @property
    def available(self) -> bool:
        return self.build is not None

    def capability(self) -> str:
        """Return the name of the instruction set that the CPU kernels use on this machine."""
        return str(self.build.capability())


def load() -> NativeLibrary:
    """Load the library of the CPU kernels, or record why there is none."""
    if not LIBRARY_FILE.exists():
        return NativeLibrary(
            None, f"{LIBRARY_FILE.name} was not built: install with a C++ compiler present (pip install .)"
        )
    try:
        torch.ops.load_library(str(LIBRARY_FILE))
        return NativeLibrary(importlib.import_module("srft_kernels._build"), "")
    except (OSError, ImportError) as error:
        return NativeLibrary(None, f"{LIBRARY_FILE.name} does not load under torch {torch.__version__}: {error}")


def load_cuda() -> NativeLibrary:
    """Load the CUDA library, or say why there is none. Whether there is a device is not checked here."""
    # in this package alone, because an import could find another package's file
    if not any(LIBRARY_FILE.parent.glob("_cuda.*")):
        return NativeLibrary(
            None, "the CUDA kernels were not built: install with nvcc and a CUDA build of torch present (pip install .)"
        )
    try:
        return NativeLibrary(importlib.import_module("srft_kernels._cuda"), "")
    except ImportError as error:
        return NativeLibrary(None, f"the CUDA kernels do not load: {error}")


library = load()
cuda_library = load_cuda()
