"""LoRA (arXiv 2106.09685) on the perceptron of the digits: every layer W becomes W + s B A, and only A and B learn.

Held by significance it is LaLoRA's diagonal form (arXiv 2512.17720): a Laplace approximation of the old task's loss
around the adapters as they begin, whose curvature is the Fisher information of A and B on the old data. B begins at
zero, so that A has no gradient there and is not held; B is, to zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 2.0
"""s, the usual α = 2 r."""


class LowRank(nn.Module):
    """A frozen linear layer with a trained update of low rank beside it.

    Args:
        base: The layer, of weight (out, in); it is frozen.
        rank: r, the number of rows of A and of columns of B.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, in) to outputs (N, out)."""
        update: Tensor = functional.linear(functional.linear(inputs, self.down), self.up)
        output: Tensor = self.base(inputs)
        return output + SCALE * update


def add(model: nn.Module, rank: int, seed: int, kept: str) -> None:
    """Put a :class:`LowRank` in the place of every linear layer but the one called ``kept``, a head that is new."""
    torch.manual_seed(2000 + seed)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, layer in layers:
        if name != kept:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LowRank(layer, rank))
