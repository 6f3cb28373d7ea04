"""The exact empirical Fisher diagonal from every sample's own gradient, with one backward pass per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from srft_kernels.significance.estimators.base import (
    Contribution,
    Estimator,
    Request,
    add_squares,
    per_sample_losses,
)
from srft_kernels.significance.estimators.fisher import check_scale


@dataclass(frozen=True)
class FisherExact(Estimator):
    """Computes the empirical Fisher diagonal from every sample's own gradient.

    ``loss_scale`` multiplies the loss and is divided out of the gradients, as in :class:`Fisher`.

    This is a loop over samples and not ``torch.func.vmap``. It works with every module, including fused attention and
    in-place operations, and its memory does not grow with the batch.
    """

    name: ClassVar[str] = "fisher_exact"
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.loss_scale)

    def contribution(self, request: Request) -> Contribution:
        losses = per_sample_losses(request)
        parameters = list(request.parameters.values())
        sums: list[Tensor | None] = [None] * len(parameters)
        for sample in range(losses.numel()):
            add_squares(sums, losses[sample], parameters, self.loss_scale, keep_graph=sample + 1 < losses.numel())
        return Contribution(sums, samples=losses.numel())
