"""Plain adapters: a bottleneck beside every MLP of both streams and of the cross blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tracker.config import TUNED_GROUPS, AdaptersSection
from tracker.models.config import NetworkConfig
from tracker.models.tracker import BlockAdapter, StreamAdapters, Tracker, TrackerOutput, build_network
from tracker.tuning.base import TunedTracker


class ParallelBottleneck(BlockAdapter):
    """Adds the output of ``width`` channels between two linear layers to the MLP's output.

    They get the same normalized tokens. This is AdaptFormer (Chen et al. 2022, arXiv 2205.13535, section 3.2), with the
    MLP's GELU in place of its ReLU. The bottleneck then amounts to more hidden channels of the MLP, and merges into it.
    It starts by adding zero.
    """

    def __init__(self, dim: int, width: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.act = nn.GELU()
        self.up = nn.Linear(width, dim)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def mlp(self, output: Tensor, normed: Tensor) -> Tensor:
        """Return ``output`` plus the scaled bottleneck of ``normed``."""
        answer: Tensor = output + self.scale * self.up(self.act(self.down(normed)))
        return answer


class Adapters(TunedTracker):
    """The two-stream tracker, frozen, with a :class:`ParallelBottleneck` in every block."""

    method = "adapters"
    base_kind = "two_stream"
    trains = TUNED_GROUPS["adapters"]
    settings_type = AdaptersSection

    settings: AdaptersSection

    def __init__(self, base: Tracker, settings: AdaptersSection) -> None:
        super().__init__(base, settings)
        self.adapters = StreamAdapters(
            base.config, lambda: ParallelBottleneck(base.config.embed_dim, settings.width, settings.scale)
        )

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Run the base with the adapters in its blocks."""
        output: TrackerOutput = self.base(template, search, self.adapters)
        return output

    def merged(self) -> Tracker:
        """Return the two-stream tracker whose MLPs have the bottlenecks' channels as hidden ones of their own."""
        wide = _wider(self.config, self.settings.width)
        state = dict(self.base.state_dict())
        for place, adapter in self.adapters.named_modules():
            if not isinstance(adapter, ParallelBottleneck):
                continue
            stream, _, layer = place.partition(".")
            mlp = f"cross.{layer}.mlp." if stream == "cross" else f"{stream}.blocks.{layer}.mlp."
            state[f"{mlp}fc1.weight"] = torch.cat([state[f"{mlp}fc1.weight"], adapter.down.weight.detach()])
            state[f"{mlp}fc1.bias"] = torch.cat([state[f"{mlp}fc1.bias"], adapter.down.bias.detach()])
            up = self.settings.scale * adapter.up.weight.detach()
            state[f"{mlp}fc2.weight"] = torch.cat([state[f"{mlp}fc2.weight"], up], dim=1)
            state[f"{mlp}fc2.bias"] = state[f"{mlp}fc2.bias"] + self.settings.scale * adapter.up.bias.detach()
        with torch.device("meta"):
            plain = build_network(wide)
        plain.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
        return plain.requires_grad_(True).train(self.training)


def _wider(config: NetworkConfig, width: int) -> NetworkConfig:
    """Return ``config`` with ``width`` more hidden channels in each MLP; timm cuts width * ratio to a whole number."""
    hidden = int(config.embed_dim * config.mlp_ratio) + width
    ratio = hidden / config.embed_dim
    while int(config.embed_dim * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return config.replace(mlp_ratio=ratio)
