"""SDSTrack's published checkpoints: OSTrack's names, and the adapters' in each block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tracker.config import SDSTrackSection
from tracker.models.checkpoints.layouts import State, check_names_and_shapes, from_ostrack, published_config
from tracker.models.config import NetworkConfig, elimination_layers
from tracker.models.tracker import build_network
from tracker.tuning.base import BASE
from tracker.tuning.sdstrack import SDSTrack

PUBLISHED_KEEP_RATIO = 0.7
X_EMBEDDING = "backbone.patch_embed_multimodal."
ADAPTERS = {
    "cross_modal.{}.on_attention": "Space_X_DTE_Adapter",
    "cross_modal.{}.beside_mlp": "MLP_X_DTE_Adapter",
    "fusion.{}.adapter.on_attention": "Space_X_X_DTE_Adapter",
    "fusion.{}.adapter.beside_mlp": "MLP_X_X_DTE_Adapter",
}
UNUSED = ("backbone.pos_embed_z_z_dte", "backbone.pos_embed_x_x_dte")
"""Written by the published code and read by nobody."""


def is_sdstrack(names: Iterable[str]) -> bool:
    """Return whether these tensor names are SDSTrack's."""
    return {f"{X_EMBEDDING}proj.weight", "backbone.blocks.0.Space_X_DTE_Adapter.D_fc1.weight"} <= set(names)


def published_sdstrack(state: Mapping[str, Tensor], source: str, num_heads: int | None = None) -> SDSTrack:
    """Return the network of a published state, on the meta device, with its own adapter width and elimination.

    The file does not record elimination. Every published configuration has a keep ratio of 0.7, at OSTrack's layers.

    Raises:
        RGBXError: the heads cannot be known (see ``published_config``), or a tensor has a wrong shape.
    """
    config = published_config(state, source, num_heads)
    config = config.replace(elimination_layers=elimination_layers(config.depth), keep_ratio=PUBLISHED_KEEP_RATIO)
    hidden = state["backbone.blocks.0.Space_X_DTE_Adapter.D_fc1.weight"].shape[0]
    with torch.device("meta"):
        return SDSTrack(build_network(config), SDSTrackSection(ratio=hidden / config.embed_dim))


def from_sdstrack(state: Mapping[str, Tensor], network: SDSTrack, source: str) -> State:
    """Return a published state under the names of ``network``.

    Raises:
        RGBXError: with the names that differ.
    """
    theirs = {name: tensor for name, tensor in state.items() if name not in UNUSED}
    names = added_names(network.config)
    added = {ours: theirs.pop(name) for ours, name in names.items() if name in theirs}
    expected = {name: tensor.shape for name, tensor in network.state_dict().items() if name in names}
    check_names_and_shapes(added, expected, source)
    base = from_ostrack(theirs, network.config, source)
    return {**added, **{BASE + name: tensor for name, tensor in base.items()}}


def added_names(config: NetworkConfig) -> dict[str, str]:
    """Our names of what SDSTrack adds to OSTrack, and the published ones."""
    names = {f"patch_embed_x.proj.{tensor}": f"{X_EMBEDDING}proj.{tensor}" for tensor in ("weight", "bias")}
    for layer in range(config.depth):
        for ours, theirs in ADAPTERS.items():
            for part, number in (("down", 1), ("up", 2)):
                for tensor in ("weight", "bias"):
                    name = f"backbone.blocks.{layer}.{theirs}.D_fc{number}.{tensor}"
                    names[f"{ours.format(layer)}.{part}.{tensor}"] = name
    return names
