"""From a checkpoint to another network of the same weights: more streams, other sizes, elimination."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker.errors import RGBXError
from tracker.models.checkpoints.files import file_digest, load_network, read_tensors
from tracker.models.checkpoints.initialize import initialize_two_stream, load_state
from tracker.models.checkpoints.layouts import is_vit
from tracker.models.checkpoints.vit_weights import start_from_vit
from tracker.models.config import NetworkConfig, elimination_layers
from tracker.models.config import preset as preset_named
from tracker.models.tracker import Tracker

CARRIED = ("inference", "positions_resized", "head")
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
    """Return the network in ``path``, converted, its configuration, and a meta that tells what it was made from.

    A plain ViT (timm, DeiT, MAE) becomes the start of the RGB tracker of ``preset``, with an untrained head.
    ``kind="two_stream"`` starts an RGB-X tracker from an RGB one (SRTrack's initialization). ``preset`` gives the sizes
    of the crops, and the number of heads if ``num_heads`` does not. ``keep_ratio`` turns candidate elimination on, at
    OSTrack's layers unless the file names others. The meta has the file's name, SHA-256 and own meta under
    ``"made_from"``.

    Raises:
        RGBXError: for a file that cannot be used, a preset of another network, and an RGB tracker that is wanted of an
            RGB-X one.
    """
    target = None if preset is None else preset_named(preset)
    network, config, meta = _read(path, target, num_heads)
    if kind == "single_stream" and config.kind == "two_stream":
        raise RGBXError(f"{path.name} has two streams, and no single one of them is an RGB tracker by itself")
    if keep_ratio is not None:
        layers = config.elimination_layers or elimination_layers(config.depth)
        config = config.replace(elimination_layers=layers, keep_ratio=keep_ratio)
        network = load_state(config, network.state_dict(), path.name)
    if kind == "two_stream" and config.kind == "single_stream":
        if "head" in meta:
            raise RGBXError(f"{path.name} has an untrained head: train the RGB tracker first")
        config = config.replace(kind="two_stream")
        network = initialize_two_stream(network, config)
    return network, config, {**{k: meta[k] for k in CARRIED if k in meta}, "made_from": made_from(path, meta)}


def made_from(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a network tells of the file that it was made from: name, SHA-256 and that file's own meta."""
    return {"file": path.name, "sha256": file_digest(path), **{k: v for k, v in meta.items() if k not in CARRIED}}


def _read(
    path: Path, target: NetworkConfig | None, num_heads: int | None
) -> tuple[Tracker, NetworkConfig, dict[str, Any]]:
    if target is None:
        return load_network(path, num_heads=num_heads)
    state, _ = read_tensors(path)
    if is_vit(state):
        network = start_from_vit(state, target, path.name)
        return network, network.config, {"layout": "vit", "head": "untrained"}
    rgb_or_x, config, meta = load_network(
        path,
        num_heads=num_heads or target.num_heads,
        template_size=target.template_size,
        search_size=target.search_size,
    )
    differing = [
        f"{name} {getattr(config, name)} instead of {getattr(target, name)}"
        for name in FIXED
        if getattr(config, name) != getattr(target, name)
    ]
    if differing:
        raise RGBXError(f"{path.name} does not fit the preset: it has {', '.join(differing)}; leave the preset out")
    return rgb_or_x, config, meta
