"""Gauss–Newton–Bartlett: the Gauss–Newton diagonal from labels that the model itself draws (Sophia, arXiv 2305.14342).

Labels y' are drawn from the model's own distribution p(·|x; θ). Then every g_i = ∇ -log p(y'_i|x_i) has mean zero
(Bartlett's first identity), and so do the cross terms of (Σ g_i)². Therefore E[(Σ g_i)²] = Σ E[g_i²], which is the
diagonal of the model's Fisher information. For these likelihoods that is the diagonal of the Gauss–Newton matrix
(Bartlett's second identity). Sophia's algorithm 2 is B · ĝ ⊙ ĝ with the batch-mean gradient ĝ; per sample that is the
same number.

A batch takes one forward pass, and one backward pass for every micro-batch and draw. The labels in the data are not
used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from srft_kernels.significance.estimators.base import (
    Contribution,
    Estimator,
    OutputsFunction,
    Request,
    add_squares,
    checked_outputs_fn,
    refuse_non_finite,
    sample_outputs,
)
from srft_kernels.significance.estimators.fisher import check_scale

Likelihood = Literal["categorical", "bernoulli", "gaussian"]


@dataclass(frozen=True)
class GaussNewtonBartlett(Estimator):
    """Estimates the Gauss-Newton diagonal from labels that the model draws from its own answer (arXiv 2305.14342).

    ``outputs_fn(model, batch)`` returns the parameters of the likelihood, whose negative logarithm is the loss:

    ============= ======================= ======================================= ========================
    likelihood    outputs                 a sample is                             loss that it stands for
    ============= ======================= ======================================= ========================
    categorical   logits (..., classes)   every position, as a token of a text    cross-entropy
    bernoulli     logits (B, ...)         a row with all its outputs              binary cross-entropy, summed
    gaussian      means (B, ...)          a row with all its outputs              ½ squared error, summed
    ============= ======================= ======================================= ========================

    ``micro_batches`` is the number of parts that a batch's samples are cut into. Each part is squared by itself and
    takes one backward pass. More parts have less variance: on the same small transformer the relative error is 1.41
    with the whole batch and 0.48 with eight parts. ``draws`` is the number of independent label vectors per batch,
    which are averaged. ``loss_scale`` is for fp16, as in the Fishers.
    """

    name: ClassVar[str] = "gnb"
    needs_loss: ClassVar[bool] = False
    outputs_fn: OutputsFunction | None = None
    likelihood: Likelihood = "categorical"
    micro_batches: int = 1
    draws: int = 1
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        checked_outputs_fn(self.outputs_fn, self.name)
        if self.likelihood not in _SURPRISES:
            raise ValueError(f"likelihood must be one of {', '.join(_SURPRISES)}, got {self.likelihood!r}")
        for what, number in (("micro_batches", self.micro_batches), ("draws", self.draws)):
            if number < 1:
                raise ValueError(f"{what} must be at least 1, got {number}")
        check_scale(self.loss_scale)

    def contribution(self, request: Request) -> Contribution:
        outputs = sample_outputs(request, checked_outputs_fn(self.outputs_fn, self.name), self.name)
        outputs = outputs.float() if outputs.dtype.itemsize < 4 else outputs
        if self.likelihood == "categorical":
            if outputs.dim() < 2:
                raise ValueError(
                    f"gnb: categorical outputs are logits of shape (..., classes), got {tuple(outputs.shape)}; "
                    "for one logit a sample use likelihood='bernoulli'"
                )
            outputs = outputs.reshape(-1, outputs.shape[-1])
        outputs = outputs if request.at_most is None else outputs[: request.at_most]
        refuse_non_finite(outputs, "outputs")
        parameters = list(request.parameters.values())
        sums: list[Tensor | None] = [None] * len(parameters)
        samples = len(outputs)
        parts = min(self.micro_batches, samples)
        for draw in range(self.draws if samples else 0):
            losses = _SURPRISES[self.likelihood](outputs, request.generator)
            for part, piece in enumerate(losses.tensor_split(parts)):
                last = draw + 1 == self.draws and part + 1 == parts
                add_squares(sums, piece.sum(), parameters, self.loss_scale, keep_graph=not last)
        for total in sums:
            if total is not None:
                total.div_(self.draws)
        return Contribution(sums, samples=samples)


# By likelihood, a function that returns -log p of a label drawn from p, (B,). Labels are always drawn on the CPU, so
# that the same seed and outputs give the same labels on every device.


def _categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    chances = logits.detach().double().cpu().softmax(-1)
    labels = torch.multinomial(chances, 1, generator=generator).squeeze(-1)
    return F.cross_entropy(logits, labels.to(logits.device), reduction="none")


def _bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    labels = torch.bernoulli(logits.detach().double().cpu().sigmoid(), generator=generator)
    each = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    return each.reshape(len(logits), -1).sum(1)


def _gaussian(means: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(means.shape, generator=generator, dtype=torch.float64)
    return (means - (means.detach() + noise.to(means))).square().reshape(len(means), -1).sum(1) / 2


_SURPRISES = {"categorical": _categorical, "bernoulli": _bernoulli, "gaussian": _gaussian}
