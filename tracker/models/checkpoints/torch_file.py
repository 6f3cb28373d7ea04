"""The tensors of a torch checkpoint, read without running any of what else is pickled in it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracker.errors import RGBXError

ENTRIES = ("net", "model")
"""Where trackers' and ViTs' checkpoints keep the weights."""


class _Placeholder:
    """Stands for whatever a checkpoint carries besides tensors. Takes any state and does nothing with it."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, without ``DataParallel``'s prefix.

    If the checkpoint has ``net`` or ``model``, they are those under it. They are loaded by torch's ``weights_only``
    loading. The settings, statistics and other objects that published files carry become inert placeholders. The file
    is mapped and not read, so an optimizer's state in it costs nothing.

    Raises:
        RGBXError: one sentence, for a file that is truncated, of another kind, or wants code to be run.
    """
    if not zipfile.is_zipfile(path):
        raise RGBXError(f"{path.name} is truncated, or neither safetensors nor a checkpoint of torch 1.6 or newer")
    try:
        extras = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Placeholder, name) for name in extras]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise RGBXError(
            f"{path.name} holds more than tensors and torch's weights_only loading refuses it "
            f"({_reason(error)}); save its 'net' entry alone, where it was made"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RGBXError(f"{path.name} is damaged or no torch checkpoint: {reason}") from error
    for entry in ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not content:
        raise RGBXError(f"{path.name} holds no weights: expected named tensors, or such under 'net'")
    if isinstance(content.get("format"), str):
        raise RGBXError(
            f"{path.name} is a training checkpoint ({content['format']}), from which a run resumes; its network is in "
            "network.safetensors, which the end of the run writes"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise RGBXError(
            f"{path.name} is no tracker's checkpoint: {', '.join(others[:4])} should be tensors and are not"
        )
    state = {str(name): tensor for name, tensor in content.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _reason(error: pickle.UnpicklingError) -> str:
    """Return the line of torch's message that says what was in the way; the rest is advice to load without safety."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "WeightsUnpickler" in line or "GLOBAL" in line]
    return (telling or lines or ["no reason given"])[0]
