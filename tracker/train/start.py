"""The network that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tracker.config import RunConfig
from tracker.errors import RGBXError
from tracker.models.checkpoints import find_weights, load_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import NetworkConfig, preset
from tracker.models.tracker import Tracker, build_network
from tracker.tuning.base import Origin, TunedTracker
from tracker.tuning.files import file_fingerprint, load_tracker, tune


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
    path = find_weights(config.init)
    network, shape, meta = load_tracker(path, **config.network.overrides())
    check_finite(network, str(config.init))
    if isinstance(network, TunedTracker):
        raise RGBXError(_tuned_already(path, network, "full"))
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


def starting_network(config: RunConfig) -> tuple[Tracker | TunedTracker, dict[str, Any]]:
    """Return the network that fine-tuning starts from, and the meta of its file.

    With ``tuning: full`` it is that of :func:`two_stream_start`. With another method it is what the method makes of
    the checkpoint, or a checkpoint that was tuned by that method, as it is.

    Raises:
        RGBXError: no or an unusable checkpoint, or one that another method has tuned.
    """
    if config.tuning == "full":
        return two_stream_start(config)
    if config.init is None:
        raise RGBXError("init is not set; give the RGB checkpoint to start from, for instance init=tiny_rgb")
    path = find_weights(config.init)
    network, _, meta = load_tracker(path, merge=False, **config.network.overrides())
    check_finite(network, str(config.init))
    settings = getattr(config, config.tuning, None)
    if isinstance(network, Tracker):
        origin = Origin(str(config.init), file_fingerprint(path))
        return tune(network, config.tuning, settings, origin, config.network.cross_layers), meta
    if network.method != config.tuning:
        raise RGBXError(_tuned_already(path, network, config.tuning))
    if network.settings != settings:
        raise RGBXError(
            f"{path.name} is tuned by {network.method} with other settings than {config.tuning}.* has here; give those "
            "of the file"
        )
    return network, meta


def _tuned_already(path: Path, network: TunedTracker, method: str) -> str:
    return (
        f"{path.name} is tuned by {network.method}, and tuning {method} needs a network that is not; start from the "
        "network that it was tuned from"
    )


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
