"""Leaving a model and the random number generators as they were found, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def generators_restored(seed: int) -> Iterator[None]:
    """Seed the global generators (torch on CPU and CUDA, NumPy, Python) for the block; restore them
    afterwards.

    Seeding makes what a data loader or a dropout layer draws in the block a function of ``seed``.
    """
    python, numpy, torch_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Asking an uninitialised CUDA for its state would initialise it, and the block then has nothing to
    # restore.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def model_restored(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module in training or evaluation mode for the block; restore what the block may change
    afterwards.

    Restored: training flags, buffers (BatchNorm statistics and counts) in value and identity,
    ``requires_grad`` and ``.grad`` of every parameter. Gradients are set aside for the block, so that a
    backward pass in it accumulates into none of them.
    """
    modules = list(model.modules())
    flags = [module.training for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    values = [{n: b.detach().clone() for n, b in found.items() if b is not None} for found in buffers]
    parameters = list(model.parameters())
    requires = [p.requires_grad for p in parameters]
    gradients = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        model.train(training)
        yield
    finally:
        for module, flag, found, value in zip(modules, flags, buffers, values, strict=True):
            module.training = flag
            module._buffers.clear()
            module._buffers.update(found)
            with torch.no_grad():
                for name, saved in value.items():
                    buffer = module._buffers[name]
                    assert buffer is not None  # only tensors were saved
                    buffer.copy_(saved)
        for p, required, gradient in zip(parameters, requires, gradients, strict=True):
            p.requires_grad_(required)
            p.grad = gradient
