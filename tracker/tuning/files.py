"""Tuned networks in files: what was trained, how to put it together, and which network it belongs to.

A file is safetensors like any network of ours (:mod:`tracker.models.checkpoints`). Its header says the method, the
method's settings, and the file and the fingerprint of the base, whose weights are not repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.checkpoints.conversion import CARRIED, made_from
from tracker.models.checkpoints.files import (
    METADATA_KEY,
    find_weights,
    load_network,
    parse_header,
    peek,
    read_tensors,
    save_network,
    single_precision,
    write_network,
)
from tracker.models.checkpoints.fingerprint import network_fingerprint
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.checkpoints.layouts import check_names_and_shapes
from tracker.models.checkpoints.position_resizing import fit_positions
from tracker.models.config import NetworkConfig, elimination_layers
from tracker.models.tracker import Tracker, build_network
from tracker.tuning.base import BASE, Origin, TunedTracker
from tracker.tuning.methods import METHODS
from tracker.tuning.sdstrack import SDSTrack
from tracker.tuning.sdstrack_layout import from_sdstrack, is_sdstrack, published_sdstrack


def tune(
    base: Tracker, method: str, settings: Any = None, origin: Origin | None = None, cross_layers: Any = None
) -> TunedTracker:
    """Return the method at its start, around ``base``.

    Args:
        base: the RGB tracker, or for methods that take two streams a two-stream tracker too.
        method: one of :data:`tracker.tuning.methods.METHODS`.
        settings: the method's section of the configuration; None for its defaults.
        origin: the file that ``base`` comes from.
        cross_layers: where two streams made from the RGB tracker meet; None for what its configuration says.

    Raises:
        RGBXError: there is no such method, or it needs another base.
    """
    if method not in METHODS:
        raise RGBXError(f"tuning {method!r} is unknown; choose one of full, {', '.join(METHODS)}")
    kind = METHODS[method]
    if settings is None and kind.settings_type is not None:
        settings = kind.settings_type()
    tuned = kind.start(base, settings, cross_layers)
    tuned.origin = origin
    return tuned


def save_tracker(
    path: str | os.PathLike[str],
    network: Tracker | TunedTracker,
    meta: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    whole: bool = False,
) -> None:
    """Write a tracker, tuned or not, to one safetensors file, as :func:`tracker.models.checkpoints.save_network`.

    Of a tuned one the file holds what was trained. ``whole`` adds the base, and so does a base that is from no file.
    """
    path = Path(path)
    if isinstance(network, Tracker):
        save_network(path, network, meta=meta, half=half)
        return
    whole = whole or network.saves_base or network.origin is None
    tuning = {
        "method": network.method,
        "settings": {} if network.settings is None else network.settings.model_dump(mode="json"),
        "base": None if whole or network.origin is None else network.origin._asdict(),
    }
    state = network.state_dict() if whole else network.saved_state()
    state = {name: tensor for name, tensor in state.items() if network.runs_with(name)}
    write_network(path, state, network.config, meta, tuning, half=half)


def load_tracker(
    path: str | os.PathLike[str], *, base: Path | None = None, merge: bool = True, **settings: Any
) -> tuple[Tracker | TunedTracker, NetworkConfig, dict[str, Any]]:
    """Return any tracker from a file, tuned or not (:func:`tracker.models.checkpoints.load_network`).

    Args:
        path: the file.
        base: the file of the network that was tuned; by default the one that ``path`` names: a shipped network, a path
            from here, or a file of that name beside ``path``.
        merge: if what the method added can be computed into the weights, return the plain tracker that results.
        settings: those of ``load_network``.

    Returns:
        The network (fp32, on the CPU, in evaluation mode), its configuration, and the meta it was saved with.

    Raises:
        RGBXError: what ``load_network`` raises; the base is not found, or is another network than was tuned.
    """
    path = Path(path)
    names, metadata = peek(path)
    if is_sdstrack(names):
        return _published(path, settings)
    if METADATA_KEY in metadata:
        config, meta, tuning = parse_header(path, metadata[METADATA_KEY])
    else:
        tuning = None
    if tuning is None:
        if base is not None:
            raise RGBXError(f"{path.name} is not tuned, so it has no base; leave the base out")
        return load_network(path, **settings)
    network = _assembled(path, config, tuning, base, {k: v for k, v in settings.items() if v is not None})
    plain = network.merged() if merge else None
    found = network if plain is None else plain
    return found, found.config, meta


def is_tuned(path: Path) -> bool:
    """Return whether a file holds a tuned network: ours, or SDSTrack's published one."""
    names, metadata = peek(path)
    ours = METADATA_KEY in metadata and parse_header(path, metadata[METADATA_KEY])[2] is not None
    return ours or is_sdstrack(names)


def converted_tuned(
    path: Path, base: Path | None = None, keep_ratio: float | None = None, num_heads: int | None = None
) -> tuple[Tracker | TunedTracker, NetworkConfig, dict[str, Any]]:
    """Return a tuned network as :func:`load_tracker` merges it, and a meta that tells what it was made from.

    ``keep_ratio`` turns candidate elimination on, at OSTrack's layers unless the file names others.
    """
    network, config, meta = load_tracker(path, base=base, num_heads=num_heads)
    if keep_ratio is not None:
        layers = config.elimination_layers or elimination_layers(config.depth)
        network, config, meta = load_tracker(
            path, base=base, num_heads=num_heads, elimination_layers=layers, keep_ratio=keep_ratio
        )
    carried = {name: meta[name] for name in CARRIED if name in meta}
    return network, config, {**carried, "made_from": made_from(path, meta)}


def _published(path: Path, settings: Mapping[str, Any]) -> tuple[TunedTracker, NetworkConfig, dict[str, Any]]:
    """Load SDSTrack's file, which contains the base."""
    given = {name: value for name, value in settings.items() if value is not None}
    theirs = read_tensors(path)[0]
    made = published_sdstrack(theirs, path.name, given.pop("num_heads", None))
    state = single_precision(from_sdstrack(theirs, made, path.name))
    config = made.config.replace(**given)
    with torch.device("meta"):
        network = SDSTrack(build_network(config), made.settings)
    return _filled(network, _fitted(state, config, path.name)), config, {"layout": "sdstrack"}


def _filled(network: TunedTracker, state: Mapping[str, Tensor]) -> TunedTracker:
    """Return ``network`` with these tensors as its weights, in evaluation mode."""
    network.load_state_dict(dict(state), strict=False, assign=True)
    network.trained = frozenset(name for name, _ in network.named_parameters() if name in state)
    network.requires_grad_(True)
    return network.eval()


def _assembled(
    path: Path, config: NetworkConfig, tuning: Mapping[str, Any], base: Path | None, settings: Mapping[str, Any]
) -> TunedTracker:
    try:
        kind, origin = METHODS[tuning["method"]], tuning["base"]
        section = None if kind.settings_type is None else kind.settings_type.model_validate(tuning["settings"])
    except KeyError as error:
        raise RGBXError(f"{path.name} is tuned in a way that this release does not know: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise RGBXError(f"{path.name} has unknown settings of its tuning: {first['loc']}, {first['msg']}") from error
    state = single_precision(read_tensors(path)[0])
    free = {name: value for name, value in settings.items() if name in FREE}
    if origin is None:
        config = config.replace(**free)
        state = _fitted(state, config, path.name)
        with torch.device("meta"):
            network = kind(build_network(config), section)
        expected = network.state_dict()
    else:
        base = base or find_base(path, origin["file"])
        network = kind(_base(path, base, origin["fingerprint"], config, free), section)
        network.origin = Origin(origin["file"], origin["fingerprint"])
        expected = {n: t for n, t in network.state_dict().items() if network.added(n) or n in state}
    check_names_and_shapes(state, {name: tensor.shape for name, tensor in expected.items()}, path.name)
    return _filled(network, state)


def _fitted(state: Mapping[str, Tensor], config: NetworkConfig, source: str) -> dict[str, Tensor]:
    """Return ``state`` with the base's position embeddings at the sizes of ``config``."""
    base = {name.removeprefix(BASE): tensor for name, tensor in state.items() if name.startswith(BASE)}
    fitted, _ = fit_positions(base, config, source)
    return {**state, **{BASE + name: tensor for name, tensor in fitted.items()}}


def find_base(path: Path, file: str) -> Path:
    """Return the file of the network that ``path`` was tuned from.

    Raises:
        RGBXError: there is no such file.
    """
    beside = path.parent / Path(file).name
    try:
        return find_weights(beside if beside.is_file() else Path(file))
    except RGBXError:
        raise RGBXError(
            f"{path.name} holds what tuning added to {file}, which is not found; put it beside {path.name}, or name it "
            "(--base)"
        ) from None


def file_fingerprint(path: Path) -> str:
    """Return the fingerprint of the network as it is in a file, whatever sizes it is then used at."""
    return network_fingerprint(load_tracker(path)[0])


def _base(path: Path, base: Path, fingerprint: str, config: NetworkConfig, settings: Mapping[str, Any]) -> Tracker:
    """Return the network in ``base`` as ``config`` describes it, after a check that it is the one that was tuned."""
    network, shape, _ = load_tracker(base, num_heads=config.num_heads)
    found = network_fingerprint(network)
    if found != fingerprint:
        raise RGBXError(
            f"{path.name} was tuned from a network with the fingerprint {fingerprint}, and {base.name} has {found}; "
            "give the network that it was tuned from"
        )
    wanted = {name: getattr(config, name) for name in FREE}
    wanted.update(settings)
    if any(getattr(shape, name) != value for name, value in wanted.items()):
        network = load_tracker(base, num_heads=config.num_heads, **wanted)[0]
    if isinstance(network, TunedTracker):
        raise RGBXError(f"{base.name} is tuned itself ({network.method}) and does not merge, so it is no base")
    if config.kind == "two_stream" and network.config.kind == "single_stream":
        network = initialize_two_stream(network, network.config.replace(kind="two_stream", cross_layers=config.cross))
    return network


FREE = ("drop_path", "template_size", "search_size", "elimination_layers", "keep_ratio")
"""Settings of a network that fit any weights."""
