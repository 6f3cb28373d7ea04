"""From a configuration to a network."""

from __future__ import annotations

from tracker.models.config import NetworkConfig
from tracker.models.single_stream import SingleStreamTracker
from tracker.models.stream import Tracker
from tracker.models.two_stream import TwoStreamTracker


def build_network(config: NetworkConfig) -> Tracker:
    """The network that ``config`` describes, with fresh weights from torch's global generator."""
    if config.kind == "single_stream":
        return SingleStreamTracker(config)
    return TwoStreamTracker(config)
