"""Networks of a few thousand parameters, and what they are fed, for the tests of tuning methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracker.models.checkpoints import network_fingerprint, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import NetworkConfig, preset
from tracker.models.tracker import Tracker, build_network
from tracker.tuning.base import Origin, TunedTracker
from tracker.tuning.files import tune


def small_config(**changes: Any) -> NetworkConfig:
    """Return a configuration of four layers of width 16, with 2 x 2 cells of template and 4 x 4 of search."""
    shape = {"embed_dim": 16, "depth": 4, "num_heads": 2, "head_channels": 8, "template_size": 32, "search_size": 64}
    return preset("tiny", kind="single_stream", **{**shape, "cross_layers": (1, 3), **changes})


def rgb_tracker(seed: int = 0, **changes: Any) -> Tracker:
    """Return an RGB tracker with random weights large enough to matter, in evaluation mode."""
    torch.manual_seed(seed)
    network = build_network(small_config(**changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def saved_rgb(path: Path, seed: int = 0, **changes: Any) -> Tracker:
    """Write a small RGB network to a file, and return the network."""
    network = rgb_tracker(seed, **changes)
    save_network(path, network)
    return network


def tuned(method: str, base: Tracker | None = None, file: str = "rgb.safetensors", **settings: Any) -> TunedTracker:
    """Return a method around ``base``. Every parameter that it adds is random, because many do nothing at the start."""
    base = rgb_tracker() if base is None else base
    origin = Origin(file, network_fingerprint(base))
    kind: Any = None
    if settings:
        from tracker.tuning.methods import METHODS

        assert METHODS[method].settings_type is not None
        kind = METHODS[method].settings_type(**settings)
    torch.manual_seed(1)
    network = tune(base, method, kind, origin)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if network.added(name):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def saved_teacher(path: Path) -> Path:
    """Return the file of a two-stream tracker, from which the distilled student learns."""
    save_network(path, initialize_two_stream(rgb_tracker(seed=5)))
    return path


def crops(config: NetworkConfig, batch: int = 2, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Return random normalized template and search crops, RGB and X."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 6, config.template_size, config.template_size, generator=generator),
        torch.randn(batch, 6, config.search_size, config.search_size, generator=generator),
    )
