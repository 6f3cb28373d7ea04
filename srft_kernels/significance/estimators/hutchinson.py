"""Hutchinson's estimate of the diagonal of the Hessian: E[z ⊙ Hz] over random signs z (Bekas, Kokiopoulou, Saad 2007).

H is the Hessian of the mean loss over samples. z ⊙ Hz has the mean diag(H) and the variance Σ_{j≠i} H_ij² per element.
One probe is exact if H is diagonal. In a trained transformer the deviation is about three times as large as the
diagonal, so hundreds of probes are needed. Normal probes are always worse, by 2 H_ii². Each batch also draws the data,
so one probe on each of many batches is better than many probes on one.

A diagonal of H has both signs. It keeps them while it is averaged, and significance is the absolute value of the
*average*. The average of absolute values would count the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srft_kernels.ops.probe import DTYPES
from srft_kernels.ops.tensors import is_dense
from srft_kernels.sharded import check as check_placement
from srft_kernels.sharded import is_distributed, is_sharded, local, rank_of
from srft_kernels.significance.convergence import LEAST_DRAWS, RunningError
from srft_kernels.significance.estimators.base import Contribution, Estimator, Request, batch_size
from srft_kernels.significance.estimators.fisher import check_scale
from srft_kernels.significance.hessian import (
    Difference,
    Probed,
    default_step,
    gradient_differences,
    narrowest_dtype,
    second_derivatives,
)
from srft_kernels.significance.preserve import Buffers, Generators


@dataclass(frozen=True)
class HutchinsonEstimator(Estimator):
    """Estimates the diagonal of the Hessian.

    ``loss_fn`` returns per-sample losses (B,), or a scalar, taken as their mean.

    ``probes`` is the largest number for each batch. With ``relative_error`` a batch stops as soon as its probes tell
    *its* diagonal that well.

    ``method="autograd"`` (double backward) is exact. It needs second derivatives of everything in the model, and about
    three times the time and memory of a training step. ``"finite_difference"`` needs first derivatives only, and a
    training step's time per evaluation. It works with fused attention, autocast, any checkpointing,
    ``DistributedDataParallel`` and FSDP2. Its own error (1e-4 to 1e-2 in fp32, a tenth in bf16) is far below one
    probe's noise.

    ``difference="forward"`` evaluates ``probes + 1`` gradients a batch. ``"central"`` evaluates ``2 * probes`` and is
    more accurate. The default is forward if it is cheaper and the arithmetic is float32 or float64, else central.

    ``step`` is h of the finite difference. By default it follows from the narrowest dtype in the gradient's graph and
    the number of elements, for which the pass begins with one more forward pass. ``loss_scale`` is for fp16, as in the
    Fishers.
    """

    name: ClassVar[str] = "hutchinson"
    measures: ClassVar[str] = "curvatures"
    shards: ClassVar[bool] = True
    probes: int = 1
    method: Literal["autograd", "finite_difference"] = "autograd"
    step: float | None = None
    difference: Difference | None = None
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, got {self.probes}")
        if self.method not in ("autograd", "finite_difference"):
            raise ValueError(f'method must be "autograd" or "finite_difference", got {self.method!r}')
        if self.difference not in (None, "forward", "central"):
            raise ValueError(f'difference must be "forward", "central" or None, got {self.difference!r}')
        if self.method == "autograd" and (self.step is not None or self.difference is not None):
            raise ValueError("step and difference belong to method='finite_difference'; method='autograd' has neither")
        if self.step is not None and not 0.0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, or None for the default, got {self.step}")
        check_scale(self.loss_scale)

    @property
    def parts(self) -> int:
        return self.probes

    def check(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        distributed = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        if distributed and self.method == "autograd":
            raise ValueError(
                "method='autograd' takes gradients that DistributedDataParallel does not reduce; use "
                "method='finite_difference', or give the wrapped module (model.module) and average the maps"
            )
        seen: dict[tuple[int, torch.device], str] = {}
        mesh: Any = None
        for name, p in parameters.items():
            if is_distributed(p):
                if self.method == "autograd":
                    raise ValueError(
                        f"{name!r} is distributed, and FSDP2 does not differentiate twice; use "
                        "method='finite_difference'"
                    )
                mesh = check_placement(p, name, mesh)
            if p.dtype not in DTYPES:
                raise ValueError(f"probes are for float32, float64, bfloat16 and float16; {name!r} is {p.dtype}")
            if self.method == "autograd":
                continue
            if distributed and not p.requires_grad:
                raise ValueError(
                    f"{name!r} is frozen, and DistributedDataParallel reduces no gradient of what was frozen when it "
                    "was made; select other parameters, or give the wrapped module (model.module)"
                )
            if getattr(p, "_post_accumulate_grad_hooks", None):
                raise ValueError(
                    f"{name!r} has a hook that runs after its gradient is accumulated, such as an optimizer step in "
                    "the backward pass; remove it for the estimation, or use method='autograd'"
                )
            if not is_dense(local(p)):
                raise ValueError(
                    f"a finite difference moves parameters where they lie, so they must be dense; {name!r} has shape "
                    f"{tuple(p.shape)} and strides {p.stride()}; make it contiguous, or use method='autograd'"
                )
            place = (local(p).data_ptr(), p.device)
            if local(p).numel() and seen.setdefault(place, name) != name:
                raise ValueError(
                    f"{name!r} and {seen[place]!r} share their memory but are two parameters, which a finite "
                    "difference would move twice; tie them as one parameter, or use method='autograd'"
                )

    def start(self, model: nn.Module, parameters: Mapping[str, Tensor], seed: int) -> HutchinsonPass:
        return HutchinsonPass(self, model, parameters, seed)

    def significance(self, mean: Tensor) -> Tensor:
        return mean.abs()


class HutchinsonPass:
    """Numbers the draws of a pass, and chooses step and difference with its first batch."""

    def __init__(
        self, options: HutchinsonEstimator, model: nn.Module, parameters: Mapping[str, Tensor], seed: int
    ) -> None:
        self.options = options
        # A parameter's number is its position in the model, so that it has the same probe whatever else is selected.
        # Shards of a parameter are tensors with signs of their own.
        places = {name: place for place, (name, _) in enumerate(model.named_parameters())}
        numbers = [places[n] + (rank_of(p) * len(places) if is_sharded(p) else 0) for n, p in parameters.items()]
        self.probed = Probed(model, list(parameters.values()), numbers, seed)
        self.draws = 0
        self.step = options.step
        self.difference = options.difference
        self.arithmetic: torch.dtype | None = None

    def info(self) -> dict[str, Any]:
        made: dict[str, Any] = {"probes": self.draws}
        if self.options.method == "finite_difference":
            made.update(step=self.step, difference=self.difference)
            if self.arithmetic is not None:
                made["arithmetic"] = str(self.arithmetic).removeprefix("torch.")
        return made

    def contribution(self, request: Request) -> Contribution:
        options, samples = self.options, 0

        def loss() -> Tensor:
            nonlocal samples
            value, samples = _mean_loss(request)
            return value

        if options.method == "autograd":
            products = second_derivatives(self.probed, loss, options.loss_scale, options.probes)
        else:
            if self.step is None or self.difference is None:
                self._settle(request)
            assert self.step is not None
            assert self.difference is not None
            products = gradient_differences(self.probed, loss, options.loss_scale, self.step, self.difference)
        sums: list[Tensor | None] = [None] * len(self.probed.parameters)
        spread = RunningError()
        used = 0
        error: tuple[float, list[float]] | None = None
        with products as product:
            for _ in range(options.probes):
                drawn = product(self.draws)
                self.draws += 1
                if options.probes > 1:
                    spread.observe(drawn, 1.0, _dense_sums(sums, drawn))
                for k, tensor in enumerate(drawn):
                    if tensor is not None:
                        total = sums[k]
                        sums[k] = tensor if total is None else total.add_(tensor)
                used += 1
                request.part_done("")
                wanted = request.relative_error
                if wanted is not None and LEAST_DRAWS <= used < options.probes:
                    error = _relative(spread, sums)
                    if error[0] <= wanted:
                        break
        if used > 1:
            error = _relative(spread, sums)
        for total in sums:
            if total is not None:
                total.mul_(samples / used)
        return Contribution(sums, samples=samples, error=error)

    def _settle(self, request: Request) -> None:
        """Find the dtype of the arithmetic from the graph of one forward pass, which is thrown away."""
        generators, buffers = Generators(), Buffers(request.model)
        loss, _ = _mean_loss(request)
        self.arithmetic = narrowest_dtype(loss, self.probed.parameters)
        generators.restore()
        del loss
        buffers.restore()
        if self.difference is None:
            wide = self.arithmetic in (torch.float32, torch.float64)
            self.difference = "forward" if wide and self.options.probes > 1 else "central"
        if self.step is None:
            self.step = default_step(self.arithmetic, self.probed.elements, self.difference)


def _mean_loss(request: Request) -> tuple[Tensor, int]:
    losses = request.loss_fn(request.model, request.batch)
    if not isinstance(losses, Tensor) or losses.dim() > 1 or not losses.is_floating_point():
        what = f"shape {tuple(losses.shape)} of {losses.dtype}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"loss_fn must return per-sample losses of shape (B,), or a scalar that is their mean, got {what}"
        )
    if not losses.requires_grad:
        raise ValueError(
            "the losses do not depend on any of the selected parameters: loss_fn must run the model with "
            "gradients (no torch.no_grad, no detach), and parameters= must select ones that it uses"
        )
    if losses.dim() == 0:
        return losses, batch_size(request.batch) or 1
    losses = losses if request.at_most is None else losses[: request.at_most]
    if not losses.numel():
        return losses.sum(), 0
    # A loss that is not finite shows in the curvature. Under DistributedDataParallel, a process that refused its batch
    # here would leave the others waiting for its gradients.
    return losses.mean(), losses.numel()


def _dense_sums(sums: list[Tensor | None], drawn: list[Tensor | None]) -> list[Tensor]:
    """Return the sums with a 0-d zero for each tensor that has no sum yet, to measure a draw against them."""
    return [
        total if total is not None else torch.zeros((), device=None if draw is None else draw.device)
        for total, draw in zip(sums, drawn, strict=True)
    ]


def _relative(spread: RunningError, sums: list[Tensor | None]) -> tuple[float, list[float]]:
    return spread.relative([torch.zeros(()) if total is None else total for total in sums])
