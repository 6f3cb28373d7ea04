"""A significance map as a safetensors file, with a JSON record in its header of how the map was made."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "srft.significance/1"
_KEYS = {"estimator", "samples", "dtype", "model", "parameters", "version", "info"}


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], made: Mapping[str, Any]) -> None:
    """Write a file beside ``path`` and rename it there, so that a reader sees either the old file or the new one."""
    path = os.fspath(path)
    stored = _storable(tensors)
    metadata = {
        "format": FORMAT,
        "significance": json.dumps(dict(made), allow_nan=False),
        "crc32": json.dumps({name: _checksum(tensor) for name, tensor in stored.items()}),
    }
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        save_file(stored, temporary, metadata=metadata)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        # safetensors wraps the system's error in its text. Callers need the OSError, above all for a full disk.
        code = re.search(r"os error (\d+)", str(error))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, f"cannot write the significance map: {os.strerror(number)}", path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, no two of which share memory. A renamed map may hold one tensor twice."""
    result = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        stored = tensor.detach().cpu().contiguous()
        place = stored.untyped_storage().data_ptr()
        if place in seen or stored.untyped_storage().nbytes() != stored.numel() * stored.element_size():
            stored = stored.clone()
        seen.add(stored.untyped_storage().data_ptr())
        result[name] = stored
    return result


def _checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a contiguous CPU tensor's bytes. safetensors itself does not detect a flipped bit."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0


def read(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors in the file's recorded order and how they were made; see :meth:`SignificanceMap.load`."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, "there is no significance map", path)
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; expected a significance map written by SignificanceMap.save")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); "
            "expected a significance map written by SignificanceMap.save"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file but no significance map of this version: its header says format "
            f"{metadata.get('format')!r}, expected {FORMAT!r}. Wrap plain tensors in "
            "SignificanceMap(...) instead"
        )
    try:
        made = json.loads(metadata["significance"])
        recorded = {name: tuple(shape) for name, shape in made["parameters"].items()}
        complete = made.keys() >= _KEYS
        checksums = json.loads(metadata.get("crc32", "{}"))  # absent from files of version 0.1 and before
        flipped = [name for name, wanted in checksums.items() if _checksum(tensors[name].cpu()) != wanted]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: the header of this significance map is damaged ({error!r})") from error
    if not complete or recorded != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise ValueError(f"{path}: the header of this significance map does not describe the tensors in it")
    if flipped:
        raise ValueError(
            f"{path} is damaged: {flipped[0]} has other bytes than were written; "
            "copy the file again from where it was made"
        )
    return {name: tensors[name] for name in recorded}, made
