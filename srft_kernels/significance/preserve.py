"""Restores a model and the random number generators after work on them, even after an exception."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


class Generators:
    """The present state of the global generators (torch on CPU and every CUDA device, NumPy, Python)."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cpu = torch.get_rng_state()
        # Reading the state of an uninitialized CUDA would initialize it, and there is nothing to restore.
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)


class Buffers:
    """A model's present buffers, in value and identity: BatchNorm statistics, counters, power iterations."""

    def __init__(self, model: nn.Module) -> None:
        self._found = [(module, dict(module._buffers)) for module in model.modules()]
        self._values = [{n: b.detach().clone() for n, b in found.items() if b is not None} for _, found in self._found]

    @torch.no_grad()
    def restore(self) -> None:
        for (module, found), values in zip(self._found, self._values, strict=True):
            module._buffers.clear()
            module._buffers.update(found)
            for name, saved in values.items():
                buffer = module._buffers[name]
                assert buffer is not None  # only tensors were saved
                buffer.copy_(saved)


@contextmanager
def generators_restored(seed: int) -> Iterator[None]:
    """Seed the global generators (torch on CPU and CUDA, NumPy, Python) for the block, and restore them afterward.

    With the seed, what a data loader or a dropout layer draws in the block is a function of ``seed``.
    """
    found = Generators()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        found.restore()


@contextmanager
def model_restored(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module in training or evaluation mode for the block, and restore what the block may change afterward.

    It restores training flags, buffers (BatchNorm statistics and counts) in value and identity, and ``requires_grad``
    and ``.grad`` of every parameter. Gradients are put aside for the block, so that a backward pass in it adds to none
    of them.
    """
    modules = list(model.modules())
    flags = [module.training for module in modules]
    buffers = Buffers(model)
    parameters = list(model.parameters())
    requires = [p.requires_grad for p in parameters]
    gradients = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        model.train(training)
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
        buffers.restore()
        for p, required, gradient in zip(parameters, requires, gradients, strict=True):
            p.requires_grad_(required)
            p.grad = gradient
