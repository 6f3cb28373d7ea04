"""Networks in files: our own format and the published ones, read without running code.

Ours is safetensors with one JSON string in the header's metadata, so that any safetensors reader opens it
and the configuration travels with the weights.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.initialise import initialise_two_stream, load_state, stream_mapping
from tracker.models.layouts import (
    State,
    from_ostrack,
    from_srtrack,
    is_srtrack,
    published_config,
    to_ostrack,
    to_srtrack,
)
from tracker.models.stream import Tracker

__all__ = [
    "initialise_two_stream",
    "load_network",
    "save_network",
    "stream_mapping",
    "to_ostrack",
    "to_srtrack",
]

METADATA_KEY = "rgbx_network"
FORMAT_VERSION = 1


def save_network(
    path: str | os.PathLike[str],
    network: Tracker,
    config: NetworkConfig | None = None,
    meta: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write weights, configuration and ``meta`` to one safetensors file, whole or not at all.

    ``meta`` is anything that JSON can hold. ``half`` stores weights in fp16 (they load to fp32); statistics
    of the batch normalisation stay fp32. The same network and meta give the same bytes. ``config`` may be
    left out: it is the network's own.

    Raises RGBXError for a configuration that is not the network's, for meta that is not JSON, and for
    ``half`` where a weight is beyond fp16; OSError where the disk refuses. The file is left as it was in
    each case.
    """
    path = Path(path)
    if config is not None and config != network.config:
        raise RGBXError(f"the configuration given for {path.name} is not the network's; leave it out")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: _to_half(name, tensor, path.name) for name, tensor in state.items()}
    header = {"version": FORMAT_VERSION, "config": network.config.to_dict(), "meta": dict(meta or {})}
    try:
        # One key only: safetensors writes metadata in the order of a hash map, which differs from run to run.
        metadata = {METADATA_KEY: json.dumps(header, sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise RGBXError(f"the meta given for {path.name} is not JSON: {error}") from error
    content = safetensors.torch.save(state, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_half(name: str, tensor: Tensor, file: str) -> Tensor:
    if not tensor.is_floating_point() or name.endswith(("running_mean", "running_var")):
        return tensor
    stored = tensor.half()
    if not bool(torch.isfinite(stored).all()):
        raise RGBXError(f"{name} does not fit fp16, so {file} cannot be stored in half; store it in full")
    return stored


def load_network(
    path: str | os.PathLike[str], *, num_heads: int | None = None, drop_path: float | None = None
) -> tuple[Tracker, NetworkConfig, dict[str, Any]]:
    """A network from a file: ours, OSTrack's, DropTrack's or SRTrack's (``.pth.tar`` or safetensors).

    Answers the network (fp32, on the CPU, in evaluation mode), its configuration, and the ``meta`` it was
    saved with (for a published file: ``{"layout": "ostrack" | "srtrack"}``). ``num_heads`` is needed only
    for published files with other than 64 channels a head; ``drop_path`` replaces the stored rate, for
    training.

    Nothing but tensors is unpickled: torch's ``weights_only`` loading, in which what published files carry
    besides tensors (settings, statistics) becomes an inert placeholder.

    Raises RGBXError, one sentence, for a file that is absent, truncated, foreign, or does not fit its
    network.
    """
    path = Path(path)
    if not path.is_file():
        raise RGBXError(f"there is no file {path}; give the path of a network's weights")
    if _is_safetensors(path):
        state, metadata = _read_safetensors(path)
        if METADATA_KEY in metadata:
            return _from_our_format(path, state, metadata[METADATA_KEY], num_heads, drop_path)
    else:
        state = _read_torch(path)
    source = path.name
    config = published_config(state, source, num_heads, drop_path or 0.0)
    if is_srtrack(state):
        layout, converted = "srtrack", from_srtrack(state, config, source)
    else:
        layout, converted = "ostrack", from_ostrack(state, config, source)
    return load_state(config, _single_precision(converted), source), config, {"layout": layout}


def _from_our_format(
    path: Path, state: State, header: str, num_heads: int | None, drop_path: float | None
) -> tuple[Tracker, NetworkConfig, dict[str, Any]]:
    try:
        content = json.loads(header)
        version, settings, meta = content["version"], content["config"], content["meta"]
        if not isinstance(settings, dict) or not isinstance(meta, dict):
            raise TypeError("config and meta must be objects")
    except (ValueError, KeyError, TypeError) as error:
        raise RGBXError(f"{path.name} has a damaged header ({error}); get or write the file anew") from error
    if version != FORMAT_VERSION:
        raise RGBXError(f"{path.name} has format version {version}, and this release reads {FORMAT_VERSION}; update it")
    config = NetworkConfig.from_dict(settings)
    if num_heads is not None and num_heads != config.num_heads:
        raise RGBXError(f"{path.name} has {config.num_heads} attention heads, not {num_heads}")
    if drop_path is not None:
        config = config.replace(drop_path=drop_path)
    return load_state(config, _single_precision(state), path.name), config, meta


def _single_precision(state: Mapping[str, Tensor]) -> State:
    """Floating tensors in fp32, each in memory of its own."""
    return {
        name: tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in state.items()
    }


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of header length, then a JSON object. A name that says so counts too."""
    with open(path, "rb") as file:
        start = file.read(9)
    plausible = len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 100_000_000
    return plausible or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise RGBXError(
            f"{path.name} ({path.stat().st_size} bytes) is truncated or not safetensors: {error}"
        ) from error


class _Placeholder:
    """Stands for whatever a checkpoint carries besides tensors. Takes any state and does nothing with it."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _read_torch(path: Path) -> State:
    """The tensors of a torch checkpoint, those under ``net`` if there is one."""
    if not zipfile.is_zipfile(path):
        raise RGBXError(f"{path.name} is truncated, or neither safetensors nor a checkpoint of torch 1.6 or newer")
    try:
        extras = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Placeholder, name) for name in extras]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "WeightsUnpickler" in line), str(error))
        raise RGBXError(
            f"{path.name} holds more than tensors and torch's weights_only loading refuses it "
            f"({reason.strip()}); save its 'net' entry alone"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RGBXError(f"{path.name} is damaged or no torch checkpoint: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("net"), Mapping):
        content = content["net"]
    if not isinstance(content, Mapping) or not content:
        raise RGBXError(f"{path.name} holds no weights: expected named tensors, or such under 'net'")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise RGBXError(
            f"{path.name} is no tracker's checkpoint: {', '.join(others[:4])} should be tensors and are not"
        )
    return {str(name): tensor for name, tensor in content.items()}
