"""Networks that are small enough to be built in every test."""

from __future__ import annotations

from typing import Any

import torch

from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, build_network


def small(**changes: Any) -> NetworkConfig:
    """Return a configuration of three layers of width 24, with 2 x 2 cells of template and 4 x 4 of search."""
    settings: dict[str, Any] = {
        "kind": "single_stream",
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
        "patch": 8,
        "template_size": 16,
        "search_size": 32,
        "head_channels": 8,
    }
    return NetworkConfig(**{**settings, **changes})


def seeded(config: NetworkConfig, seed: int = 0) -> Tracker:
    """Return the network of a configuration with the initial weights of a seed, in evaluation mode."""
    torch.manual_seed(seed)
    return build_network(config).eval()


def same(a: Tracker, b: Tracker) -> bool:
    """Return whether two networks have the same parameters and buffers, to the bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
