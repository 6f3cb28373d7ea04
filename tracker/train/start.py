"""The network that a run starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tracker.config import RunConfig
from tracker.errors import RGBXError
from tracker.models.build import build_network
from tracker.models.checkpoints import find_weights, load_network
from tracker.models.config import NetworkConfig, preset
from tracker.models.initialize import initialize_two_stream
from tracker.models.stream import Tracker


def network_config(config: RunConfig, kind: str) -> NetworkConfig:
    """Return the architecture that ``config.network`` describes."""
    return preset(config.network.preset, kind=kind, **config.network.changes())


def single_stream_start(config: RunConfig) -> tuple[Tracker, dict[str, Any] | None]:
    """Return a new RGB tracker, or that of ``config.init`` with the meta of its file.

    Raises:
        RGBXError: a checkpoint that cannot be used, or has two streams.
    """
    if config.init is None:
        return build_network(network_config(config, "single_stream")), None
    network, shape, meta = load_network(find_weights(config.init), **config.network.overrides())
    check_finite(network, str(config.init))
    if shape.kind != "single_stream":
        raise RGBXError(f"{config.init} has two streams; pre-training takes an RGB tracker, `rgbx train` the two")
    return network, meta


def two_stream_start(config: RunConfig) -> tuple[Tracker, dict[str, Any]]:
    """Return the network that fine-tuning starts from, and the meta of its file.

    A two-stream checkpoint is taken as it is, an RGB one becomes both streams. Width and depth are the checkpoint's.
    Sizes of the crops, drop path and elimination are those of ``config.network`` where they stand there.

    Raises:
        RGBXError: no or an unusable checkpoint, or one with other cross layers than ``config.network`` asks for.
    """
    if config.init is None:
        raise RGBXError("init is not set; give the RGB checkpoint to start from, for instance init=tiny_rgb")
    network, shape, meta = load_network(find_weights(config.init), **config.network.overrides())
    check_finite(network, str(config.init))
    cross = config.network.cross_layers
    if shape.kind == "two_stream":
        if cross is not None and cross != shape.cross:
            raise RGBXError(
                f"network.cross_layers is {list(cross)}, and {config.init} has two streams that cross at "
                f"{list(shape.cross)}; leave network.cross_layers out, or start from an RGB checkpoint"
            )
        return network, meta
    wanted = shape.replace(kind="two_stream", **({} if cross is None else {"cross_layers": cross}))
    return initialize_two_stream(network, wanted), meta


def check_finite(network: nn.Module, name: str) -> None:
    """Refuse weights that are NaN or infinite, before a run is spent on them.

    Raises:
        RGBXError: naming the first tensor and how many of its values are not finite.
    """
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise RGBXError(
                f"{name} has {count} values in {key} that are NaN or infinite; it comes from a run that diverged, so "
                "take an earlier checkpoint"
            )
