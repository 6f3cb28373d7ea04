"""What is trained: the parameter shapes of a network, with random weights, gradients and priors."""

from __future__ import annotations

import os

import torch
from torch import nn

TWO_STREAM = "two_stream_vit_base"
NETWORK = os.environ.get("SRFT_BENCH_NETWORK", "vit_base_patch16_224")
ROUNDS = int(os.environ.get("SRFT_BENCH_ROUNDS", "15"))


def shapes(network: str = NETWORK) -> list[torch.Size]:
    """Return the shapes of a network's trained parameters. Nothing is allocated or downloaded.

    ``network`` is a timm name, or :data:`TWO_STREAM`: the RGB-X tracker's two ViT-B streams and cross blocks, with its
    head frozen as its trainer does (199.6 million parameters in 344 tensors).
    """
    with torch.device("meta"):
        if network == TWO_STREAM:
            from tracker.models.config import vit_b_256
            from tracker.models.groups import parameter_groups
            from tracker.models.tracker import build_network

            return [p.shape for group in parameter_groups(build_network(vit_b_256())) for _, p in group["params"]]
        return [p.shape for p in timm_network(network).parameters()]


def timm_network(network: str) -> nn.Module:
    """Return a timm network with fresh weights, on the device of the context."""
    import timm

    made: nn.Module = timm.create_model(network, pretrained=False)
    return made


class Workload:
    """Parameters with gradients, their anchors (``weights``) and priors on ``device``.

    All contestants step the same parameters, with state of their own: what is timed does not depend on the values, and
    twenty copies of everything would not fit. On a CPU the others stream gigabytes through the caches between two turns
    of one contestant; on a GPU the timer empties the cache before every turn.
    """

    def __init__(self, device: torch.device, sizes: list[torch.Size] | None = None) -> None:
        torch.manual_seed(0)
        self.device = device
        self.weights = [0.02 * torch.randn(s, device=device) for s in (shapes() if sizes is None else sizes)]
        self.gradients = [1e-3 * torch.randn(w.shape, device=device) for w in self.weights]
        self.priors = [torch.rand(w.shape, device=device).pow(4) for w in self.weights]
        self.parameters = [nn.Parameter(w.clone()) for w in self.weights]
        for p, g in zip(self.parameters, self.gradients, strict=True):
            p.grad = g
        self.elements = sum(w.numel() for w in self.weights)

    def in_dtype(self, dtype: torch.dtype) -> list[nn.Parameter]:
        """Return the parameters once more, and their gradients, in another dtype."""
        made = [nn.Parameter(w.to(dtype)) for w in self.weights]
        for p, g in zip(made, self.gradients, strict=True):
            p.grad = g.to(dtype)
        return made
