"""From a checkpoint to another network of the same weights: more streams, other sizes, elimination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracker.errors import RGBXError
from tracker.models.checkpoints import file_digest, initialise_two_stream, load_network
from tracker.models.config import NetworkConfig, elimination_layers
from tracker.models.config import preset as preset_named
from tracker.models.initialise import load_state
from tracker.models.stream import Tracker

CARRIED = ("inference", "positions_resized")
"""Entries of the meta that are as true of what is made as of what it is made from."""

FIXED = ("embed_dim", "depth", "num_heads", "patch", "head_channels", "mlp_ratio", "temporal")
"""Settings that the weights decide."""


def converted(
    path: Path,
    kind: str | None = None,
    preset: str | None = None,
    keep_ratio: float | None = None,
    num_heads: int | None = None,
) -> tuple[Tracker, NetworkConfig, dict[str, Any]]:
    """The network in ``path``, converted, its configuration, and a meta that tells what it was made from.

    ``kind="two_stream"`` starts an RGB-X tracker from an RGB one (SRTrack's initialisation). ``preset`` gives the
    sizes of the crops, and the number of heads where ``num_heads`` does not. ``keep_ratio`` turns candidate
    elimination on, at OSTrack's layers unless the file says which. The meta has the file's name, SHA-256 and own
    meta under ``"made_from"``.

    Raises RGBXError for a file that cannot be used, a preset of another network, and for an RGB tracker wanted
    of an RGB-X one.
    """
    sizes: dict[str, Any] = {}
    target = None if preset is None else preset_named(preset)
    if target is not None:
        sizes = {"template_size": target.template_size, "search_size": target.search_size}
        num_heads = num_heads or target.num_heads
    network, config, meta = load_network(path, num_heads=num_heads, **sizes)
    if target is not None:
        differing = [
            f"{name} {getattr(config, name)} instead of {getattr(target, name)}"
            for name in FIXED
            if getattr(config, name) != getattr(target, name)
        ]
        if differing:
            raise RGBXError(f"{path.name} is no {preset}: it has {', '.join(differing)}; leave the preset out")
    if kind == "single_stream" and config.kind == "two_stream":
        raise RGBXError(f"{path.name} has two streams, and no single one of them is an RGB tracker by itself")
    if keep_ratio is not None:
        layers = config.elimination_layers or elimination_layers(config.depth)
        config = config.replace(elimination_layers=layers, keep_ratio=keep_ratio)
        network = load_state(config, network.state_dict(), path.name)
    if kind == "two_stream" and config.kind == "single_stream":
        config = config.replace(kind="two_stream")
        network = initialise_two_stream(network, config)
    origin = {"file": path.name, "sha256": file_digest(path), **{k: v for k, v in meta.items() if k not in CARRIED}}
    return network, config, {**{k: meta[k] for k in CARRIED if k in meta}, "made_from": origin}
