"""Which implementation of ``srft::step_`` runs: kernels where there are some, the reference everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from . import contract, reference
from .native import library

Backend = Literal["native", "reference"]

# For every device without kernels; a kernel registered for a device goes before it.
contract.LIBRARY.impl("step_", reference.step, "CompositeExplicitAutograd")


def step_function(backend: Backend | None) -> Callable[..., Any]:
    """The operator: dispatched by device for ``None``, else the implementation of that name.

    Raises
    ------
    RuntimeError
        If ``backend="native"`` and the compiled library is not there.
    ValueError
        For a name that is not a backend.
    """
    if backend is None:
        return torch.ops.srft.step_.default
    if backend == "reference":
        return reference.step
    if backend == "native":
        if not library.available:
            raise RuntimeError(f"backend='native' was asked for, but {library.reason}")
        return torch.ops.srft.step_.default
    raise ValueError(f"backend must be None, 'native' or 'reference', got {backend!r}")
