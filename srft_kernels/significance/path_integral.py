"""Synaptic intelligence (Zenke, Poole and Ganguli, arXiv 1703.04200): significance gathered while a task is learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from srft_kernels.ops.tensors import element_dtype
from srft_kernels.significance.map import SignificanceMap


class PathIntegral:
    """Records how much each weight has lowered the loss (synaptic intelligence, arXiv 1703.04200).

    At every step ω ← ω - g · Δθ (equation 3), and at the end of a task Ω = max(ω, 0) / ((θ - θ₀)² + ξ) (equation 5).

    It records the steps of any torch optimizer, including :class:`SRFT`, from when it is made until :meth:`close`. It
    can also be used as a context manager. g is the gradient in ``.grad`` after the step, which is the task's. SRFT's
    pull is not in it, except in coupled mode around an optimizer that is not fused, which adds the pull there.

    :class:`SRFT` around a fused optimizer adds up ω in the step's own pass over memory. It keeps ω and θ₀ (8 bytes a
    parameter in float32) and moves 8 more bytes. With any other optimizer this keeps a copy of the weights besides, and
    takes two passes a step. A copy or a pickle of the optimizer does not record.

    Args:
        optimizer: The optimizer to watch.
        parameters: ``model.named_parameters()`` or a mapping by name. By default these are the names that the optimizer
            was given.

    Raises:
        ValueError: If the parameters have no names, or the optimizer steps none of them.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None = None
    ) -> None:
        if parameters is None:
            unnamed = [g for g in optimizer.param_groups if "param_names" not in g]
            if unnamed:
                raise ValueError(
                    "the optimizer's parameters have no names: build it from model.named_parameters(), or give "
                    "PathIntegral the parameters by name"
                )
            parameters = [
                (str(n), p) for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)
            ]
        named = dict(parameters)
        stepped = {p for g in optimizer.param_groups for p in g["params"]}
        self._named = {n: p for n, p in named.items() if p in stepped and p.requires_grad}
        if not self._named:
            raise ValueError("none of the parameters is one that the optimizer steps")
        self._before: dict[str, Tensor] = {}
        # The fused step adds to these sums, which are keyed by parameter.
        self._path = {p: torch.zeros_like(p, dtype=element_dtype(p)) for p in self._named.values()}
        self.restart()
        follow = getattr(optimizer, "_record_paths", None)  # a method of SRFT, which cannot be imported from here
        self._unfollow = follow if follow is not None and follow(self._path) else None
        self._hooks: list[RemovableHandle] = [optimizer.register_step_post_hook(self._count)]
        if self._unfollow is None:
            self._hooks += [
                optimizer.register_step_pre_hook(self._keep),
                optimizer.register_step_post_hook(self._add),
            ]

    def restart(self) -> None:
        """Begin a task here. θ₀ are the present weights, and the sums are empty."""
        self._start = {n: p.detach().clone() for n, p in self._named.items()}
        for path in self._path.values():
            path.zero_()
        self.steps = 0

    def _count(self, *_: Any) -> None:
        self.steps += 1

    @torch.no_grad()
    def _keep(self, *_: Any) -> None:
        for name, p in self._named.items():
            if name in self._before:
                self._before[name].copy_(p)
            else:
                self._before[name] = p.detach().clone()

    @torch.no_grad()
    def _add(self, optimizer: Optimizer, *_: Any) -> None:
        # SRFT divides by a GradScaler's scale inside its kernels and leaves the gradients as they were.
        scale = getattr(optimizer, "grad_scale", None) if getattr(optimizer, "gradients_stay_scaled", False) else None
        for name, p in self._named.items():
            if p.grad is None:
                continue
            path = self._path[p]
            moved = p.to(path.dtype) - self._before[name].to(path.dtype)
            fall = -p.grad.to(path.dtype) * moved
            if scale is not None:
                fall /= scale.to(fall)
            path.add_(torch.where(fall.isfinite(), fall, 0.0))

    @torch.no_grad()
    def significance(self, damping: float = 0.1) -> SignificanceMap:
        """Return Ω of the task so far.

        Args:
            damping: ξ, which bounds Ω if a weight has not moved.

        Returns:
            A map with Ω under each name, in the compute dtype.

        Raises:
            ValueError: If ``damping`` is not positive and finite.
            RuntimeError: If no step was recorded.
        """
        if not 0 < damping < float("inf"):
            raise ValueError(f"damping must be positive and finite, got {damping}")
        if self.steps == 0:
            raise RuntimeError("no step was recorded: train with the optimizer first")
        found = {}
        for name, p in self._named.items():
            path = self._path[p]
            moved = p.to(path.dtype) - self._start[name].to(path.dtype)
            found[name] = path.clamp(min=0.0) / (moved.square() + damping)
        return SignificanceMap(found, estimator="si", info={"steps": self.steps, "damping": damping})

    def close(self) -> None:
        """Stop recording. What was recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._unfollow is not None:
            self._unfollow(None)
            self._unfollow = None

    def __enter__(self) -> PathIntegral:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
