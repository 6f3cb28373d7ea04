"""Weights of a plain ViT (timm, DeiT, MAE) as the start of an RGB tracker that is still to be trained."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.checkpoints.layouts import State, check_state
from tracker.models.checkpoints.position_resizing import fit_positions
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, build_network

DROPPED = ("cls_token", "dist_token", "mask_token", "pos_embed", "head.", "head_dist.", "pre_logits.", "decoder_")
"""What a classifier or an autoencoder has and a tracker has not."""

MOST_PREFIX_TOKENS = 2  # class and distillation


def start_from_vit(state: Mapping[str, Tensor], config: NetworkConfig, source: str, seed: int = 0) -> Tracker:
    """Return an RGB tracker whose stream is this ViT, as OSTrack starts from MAE.

    Template and search get the ViT's position embeddings, each resized to its own grid, without those of class and
    distillation tokens. The head is as new, drawn from ``seed``: the tracker has to be trained. Answers in evaluation
    mode.

    Raises RGBXError with the names that differ where the ViT does not fit ``config``.
    """
    config = config.replace(kind="single_stream")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config).eval()
    grid = _without_prefix(state["pos_embed"], source)
    stream: State = {f"rgb.{name}": t.float() for name, t in state.items() if not name.startswith(DROPPED)}
    stream["positions.template"] = stream["positions.search"] = grid.float()
    stream, _ = fit_positions(stream, config, source)
    fresh = {name: t for name, t in network.state_dict().items() if name.partition(".")[0] != "rgb"}
    whole = {**fresh, **stream}
    check_state(whole, config, source)
    network.load_state_dict(whole)
    return network


def _without_prefix(positions: Tensor, source: str) -> Tensor:
    """Return the ``(1, N, D)`` positions of the patches, which are a square grid, from ``(1, prefix + N, D)``."""
    if positions.dim() == 3:
        for prefix in range(MOST_PREFIX_TOKENS + 1):
            patches = positions.shape[1] - prefix
            if patches > 0 and math.isqrt(patches) ** 2 == patches:
                return positions[:, prefix:]
    raise RGBXError(f"{source} has position embeddings of shape {tuple(positions.shape)}, which are no square grid")
