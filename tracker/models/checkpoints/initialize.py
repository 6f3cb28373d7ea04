"""From an RGB tracker to a two-stream one: which weight goes where (SRTrack's initialization)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.checkpoints.layouts import State, check_state, from_ostrack, is_ostrack, published_config
from tracker.models.checkpoints.position_resizing import fit_positions
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, TwoStreamTracker, build_network

SOURCE = "the RGB tracker's state"


def stream_mapping(config: NetworkConfig) -> Callable[[str], list[str]]:
    """Return a function from a parameter of the single-stream tracker to its names in the two-stream one of ``config``.

    It maps ``rgb.*`` to both streams, the blocks of ``config.cross`` to their cross block too, and positions and head
    to themselves. ``SignificanceMap.rename`` takes it to carry a prior.
    """
    crossing = {layer: index for index, layer in enumerate(config.cross)}

    def two_stream_names(name: str) -> list[str]:
        if not name.startswith("rgb."):
            return [name]
        rest = name.removeprefix("rgb.")
        names = [name, f"x.{rest}"]
        if rest.startswith("blocks."):
            _, layer, tensor = rest.split(".", 2)
            if int(layer) in crossing:
                names.append(f"cross.{crossing[int(layer)]}.{tensor}")
        return names

    return two_stream_names


def load_state(config: NetworkConfig, state: Mapping[str, Tensor], source: str) -> Tracker:
    """Return a network with these very tensors as its weights, in evaluation mode; nothing is initialized in vain.

    Raises RGBXError with the names that differ unless ``state`` fits ``config``.
    """
    check_state(state, config, source)
    with torch.device("meta"):
        network = build_network(config)
    network.load_state_dict(dict(state), strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network.eval()


def initialize_two_stream(rgb: Tracker | Mapping[str, Tensor], config: NetworkConfig | None = None) -> TwoStreamTracker:
    """Return a two-stream tracker that starts as SRTrack does: streams and cross blocks are copies of RGB blocks.

    ``rgb`` is a single-stream tracker, its state, or a state with OSTrack's published names. ``config`` describes the
    two-stream network. For a tracker it may be left out, and is then the tracker's own with two streams. The copies
    share no memory with ``rgb`` or each other. Position embeddings are resized if the crops of ``config`` have other
    sizes, which is logged. The result is in evaluation mode.

    Raises:
        RGBXError: with the names that differ, if the RGB tracker does not fit ``config`` (another width or depth).
    """
    if isinstance(rgb, Tracker):
        if config is None:
            config = rgb.config.replace(kind="two_stream")
        elif config.kind == "two_stream" and config.num_heads != rgb.config.num_heads:
            raise RGBXError(
                f"the RGB tracker has {rgb.config.num_heads} attention heads and the configuration "
                f"{config.num_heads}; give both the same"
            )
        rgb = rgb.state_dict()
    if config is None:
        raise RGBXError("a state tells no configuration; give a two-stream one with it")
    if config.kind != "two_stream":
        raise RGBXError(f"a two-stream network needs a two_stream configuration, not {config.kind}")
    if is_ostrack(rgb):
        rgb = from_ostrack(rgb, published_config(rgb, SOURCE, config.num_heads))
    rgb, _ = fit_positions(rgb, config, SOURCE)
    check_state(rgb, config.replace(kind="single_stream"), SOURCE)
    where = stream_mapping(config)
    state: State = {}
    for name, tensor in rgb.items():
        for target in where(name):
            state[target] = tensor.detach().clone()
    network = load_state(config, state, SOURCE)
    assert isinstance(network, TwoStreamTracker)
    return network
