"""Networks in files: our own format and the published ones, read without running code.

Ours is safetensors with one JSON string in the header's metadata, so that any safetensors reader opens it
and the configuration travels with the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tracker.errors import RGBXError
from tracker.files import atomic_file
from tracker.models.checkpoints.initialize import load_state
from tracker.models.checkpoints.layouts import (
    State,
    check_state,
    from_ostrack,
    from_srtrack,
    published_config,
    to_ostrack,
    to_srtrack,
)
from tracker.models.checkpoints.position_resizing import fit_positions
from tracker.models.checkpoints.torch_file import read_torch_file
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker

METADATA_KEY = "rgbx_network"
FORMAT_VERSION = 1
TUNING_KEY = "tuning"
"""Of the header: the file holds what a method of :mod:`tracker.tuning` made, which is opened there."""
PUBLISHED_LAYOUTS = {"single_stream": "ostrack", "two_stream": "srtrack"}
DROPTRACK_SEARCH_FACTOR = 5.0


def save_network(
    path: str | os.PathLike[str],
    network: Tracker,
    config: NetworkConfig | None = None,
    meta: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write weights, configuration and ``meta`` to one safetensors file, whole or not at all.

    ``meta`` is anything that JSON can hold. ``half`` stores weights in fp16 (they load to fp32); statistics of the
    batch normalization stay fp32. The same network and meta give the same bytes. ``config`` is the network's own and
    may be left out.

    Raises:
        RGBXError: for a configuration that is not the network's, for meta that is not JSON, for ``half`` if a weight is
            beyond fp16, and if the disk refuses. The file is left as it was in each case.
    """
    path = Path(path)
    if config is not None and config != network.config:
        raise RGBXError(f"the configuration given for {path.name} is not the network's; leave it out")
    write_network(path, network.state_dict(), network.config, meta, half=half)


def write_network(
    path: Path,
    state: Mapping[str, Tensor],
    config: NetworkConfig,
    meta: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write any state as :func:`save_network` does. ``tuning`` says how to make the network from it and its base."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if half:
        state = {name: _to_half(name, tensor, path.name) for name, tensor in state.items()}
    header = {"version": FORMAT_VERSION, "config": config.to_dict(), "meta": dict(meta or {})}
    if tuning is not None:
        header[TUNING_KEY] = dict(tuning)
    try:
        # One key only: safetensors writes metadata in the order of a hash map, which differs from run to run.
        metadata = {METADATA_KEY: json.dumps(header, sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise RGBXError(f"the meta given for {path.name} is not JSON: {error}") from error
    _write_whole(path, safetensors.torch.save(state, metadata=metadata))


def save_published(path: str | os.PathLike[str], network: Tracker) -> str:
    """Write a network in the layout of the published code, whole or not at all; answers the layout's name.

    A single-stream network becomes OSTrack's (DropTrack's, with temporal embeddings), a two-stream one SRTrack's:
    for ``.safetensors`` the tensors, for any other name a torch checkpoint with them under ``net``, which is what
    their ``torch.load`` looks for. The number of attention heads, the cross layers and elimination are not in it.

    Raises RGBXError where the disk refuses; the file is left as it was.
    """
    path = Path(path)
    layout = PUBLISHED_LAYOUTS[network.config.kind]
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    state = to_ostrack(state) if layout == "ostrack" else to_srtrack(state)
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(state)
    else:
        buffer = io.BytesIO()
        torch.save({"net": state}, buffer)
        content = buffer.getvalue()
    _write_whole(path, content)
    return layout


def _write_whole(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _to_half(name: str, tensor: Tensor, file: str) -> Tensor:
    if not tensor.is_floating_point() or name.endswith(("running_mean", "running_var")):
        return tensor
    stored = tensor.half()
    if not bool(torch.isfinite(stored).all()):
        raise RGBXError(f"{name} does not fit fp16, so {file} cannot be stored in half; store it in full")
    return stored


def find_weights(path: Path) -> Path:
    """Return the file itself, or the shipped weights of that name (``tiny_rgb``)."""
    if path.is_file():
        return path
    shipped = Path(__file__).resolve().parents[2] / "weights"
    if path.parent == Path(".") and (shipped / f"{path.stem}.safetensors").is_file():
        return shipped / f"{path.stem}.safetensors"
    names = ", ".join(sorted(item.stem for item in shipped.glob("*.safetensors"))) or "none"
    raise RGBXError(f"checkpoint {path} does not exist (shipped weights: {names})")


def load_network(
    path: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    drop_path: float | None = None,
    template_size: int | None = None,
    search_size: int | None = None,
    elimination_layers: tuple[int, ...] | None = None,
    keep_ratio: float | None = None,
) -> tuple[Tracker, NetworkConfig, dict[str, Any]]:
    """Return a network from a file: ours, OSTrack's, DropTrack's or SRTrack's (``.pth.tar`` or safetensors).

    It returns the network (fp32, on the CPU, in evaluation mode), its configuration, and the ``meta`` with which it was
    saved. The meta of a published file is ``{"layout": "ostrack" | "srtrack"}``. With temporal embeddings (DropTrack,
    and SRTrack's trackers from it) it also has the search factor under ``"inference"``. ``num_heads`` is needed only
    for published files with other than 64 channels a head. The other settings replace those of the file. None of them
    changes which weights there are, but position embeddings are resized to another ``template_size`` or
    ``search_size``, which is logged and noted in the meta (``"positions_resized"``: cells along a side before and
    after).

    Nothing but tensors is unpickled: see :func:`tracker.models.checkpoints.torch_file.read_torch_file`.

    Raises:
        RGBXError: one sentence, for a file that is absent, truncated, of another kind, or does not fit its network, and
            for settings that make no network.
    """
    path = Path(path)
    given = {
        "drop_path": drop_path,
        "template_size": template_size,
        "search_size": search_size,
        "elimination_layers": elimination_layers,
        "keep_ratio": keep_ratio,
    }
    state, config, meta = _read(path, num_heads)
    wanted = config.replace(**{name: value for name, value in given.items() if value is not None})
    if (wanted.template_cells, wanted.search_cells) != (config.template_cells, config.search_cells):
        check_state(state, config, path.name)
        state, resized = fit_positions(state, wanted, path.name)
        meta["positions_resized"] = [*meta.get("positions_resized", []), resized]
    return load_state(wanted, single_precision(state), path.name), wanted, meta


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal: says later which weights a network was made from."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[State, dict[str, str]]:
    """Return every tensor of a file under the names that it has there, and the header's metadata where it has a header.

    Raises RGBXError for a file that is absent, truncated, or neither safetensors nor a torch checkpoint.
    """
    if not path.is_file():
        raise RGBXError(f"there is no file {path}; give the path of a network's weights")
    return _read_safetensors(path) if _is_safetensors(path) else (read_torch_file(path), {})


def peek(path: Path) -> tuple[set[str], dict[str, str]]:
    """Return names of a file's tensors, and the header's metadata; see :func:`read_tensors`."""
    if path.is_file() and _is_safetensors(path):
        with _opened(path) as file:
            return set(file.keys()), file.metadata() or {}
    state, metadata = read_tensors(path)
    return set(state), metadata


def _read(path: Path, num_heads: int | None) -> tuple[State, NetworkConfig, dict[str, Any]]:
    """Return the state under our names, the configuration for which it was made, and the meta."""
    state, metadata = read_tensors(path)
    if METADATA_KEY in metadata:
        return state, *_our_header(path, metadata[METADATA_KEY], num_heads)
    source = path.name
    if "significance" in metadata:
        raise RGBXError(f"{source} is a significance map, no network; training takes it as optimizer.prior")
    config = published_config(state, source, num_heads)
    layout = PUBLISHED_LAYOUTS[config.kind]
    meta: dict[str, Any] = {"layout": layout}
    if config.temporal:
        meta["inference"] = {"search_factor": DROPTRACK_SEARCH_FACTOR}
    ours = from_ostrack if layout == "ostrack" else from_srtrack
    return ours(state, config, source), config, meta


def parse_header(path: Path, header: str) -> tuple[NetworkConfig, dict[str, Any], dict[str, Any] | None]:
    """Configuration, meta and, of a tuned network, what its method needs, of the header of a file of ours.

    Raises RGBXError where it is damaged or of another version.
    """
    try:
        content = json.loads(header)
        version, settings, meta = content["version"], content["config"], content["meta"]
        tuning = content.get(TUNING_KEY)
        if not isinstance(settings, dict) or not isinstance(meta, dict) or not isinstance(tuning, dict | None):
            raise TypeError("config and meta must be objects")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RGBXError(f"{path.name} has a damaged header ({error}); get or write the file anew") from error
    if version != FORMAT_VERSION:
        raise RGBXError(f"{path.name} has format version {version}, and this release reads {FORMAT_VERSION}; update it")
    return NetworkConfig.from_dict(settings), meta, tuning


def _our_header(path: Path, header: str, num_heads: int | None) -> tuple[NetworkConfig, dict[str, Any]]:
    config, meta, tuning = parse_header(path, header)
    if tuning is not None:
        raise RGBXError(f"{path.name} is tuned ({tuning.get('method')}), and a network that is not is needed here")
    if num_heads is not None and num_heads != config.num_heads:
        raise RGBXError(f"{path.name} has {config.num_heads} attention heads, not {num_heads}")
    return config, meta


def single_precision(state: Mapping[str, Tensor]) -> State:
    """Floating tensors in fp32, each in memory of its own."""
    return {
        name: tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in state.items()
    }


def _is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors: eight bytes of header length, then a JSON object. Its name counts too."""
    with open(path, "rb") as file:
        start = file.read(9)
    plausible = len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 100_000_000
    return plausible or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    with _opened(path) as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise RGBXError(
            f"{path.name} ({path.stat().st_size} bytes) is truncated or not safetensors: {error}"
        ) from error
