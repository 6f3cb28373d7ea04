"""Memory aware synapses (Aljundi et al., arXiv 1711.09601): how far the outputs move with a weight.

    Ω_i = 1/N Σ_n |∂ ‖F(x_n; θ)‖² / ∂θ_i|

with the squared L2 norm of the sample's whole output (section 4.1 of the paper). It needs no labels, so any data
will do. The absolute value is taken for each sample, so a batch takes one forward pass and a *sample* one backward
pass. Many implementations take the absolute value of a batch's summed gradient instead, in which samples cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from srft_kernels.significance.estimators.base import (
    Contribution,
    Estimator,
    OutputsFunction,
    Request,
    add_absolutes,
    checked_outputs_fn,
    refuse_non_finite,
    sample_outputs,
)
from srft_kernels.significance.estimators.fisher import check_scale


@dataclass(frozen=True)
class MAS(Estimator):
    """Computes memory aware synapses. ``outputs_fn(model, batch)`` returns the outputs (B, ...).

    ``loss_scale`` is for fp16, as in the Fishers.
    """

    name: ClassVar[str] = "mas"
    needs_loss: ClassVar[bool] = False
    measures: ClassVar[str] = "absolute gradients"
    outputs_fn: OutputsFunction | None = None
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        checked_outputs_fn(self.outputs_fn, self.name)
        check_scale(self.loss_scale)

    def contribution(self, request: Request) -> Contribution:
        outputs = sample_outputs(request, checked_outputs_fn(self.outputs_fn, self.name), self.name)
        outputs = outputs if request.at_most is None else outputs[: request.at_most]
        norms = outputs.float() if outputs.dtype.itemsize < 4 else outputs
        norms = norms.reshape(len(norms), -1).square().sum(1) if norms.numel() else norms.reshape(-1)
        refuse_non_finite(norms, "squared output norms")
        parameters = list(request.parameters.values())
        sums: list[Tensor | None] = [None] * len(parameters)
        for sample in range(norms.numel()):
            add_absolutes(sums, norms[sample], parameters, self.loss_scale, keep_graph=sample + 1 < norms.numel())
        return Contribution(sums, samples=norms.numel())
