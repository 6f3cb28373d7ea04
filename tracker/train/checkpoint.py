"""Checkpoints of a training run. Each is one file that is written whole, and a resumed run ends with the same bits."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracker.errors import RGBXError, shortened
from tracker.files import atomic_file

FORMAT = "rgbx-training-checkpoint"
VERSION = 1
_NAME = re.compile(r"step_(\d{8})\.ckpt")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) atomically, marked as ours."""
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Raises:
        RGBXError: the file is missing, truncated, or not a training checkpoint of ours.
    """
    if not path.is_file():
        raise RGBXError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise RGBXError(
            f"{path} is truncated or is not a training checkpoint (a run has them in its checkpoints folder)"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RGBXError(f"{path} is not a training checkpoint of rgbx, so a run cannot be resumed from it")
    if state["version"] != VERSION:
        raise RGBXError(f"{path} is a checkpoint of version {state['version']}, and this rgbx reads version {VERSION}")
    return state


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint of a step."""
    return folder / f"step_{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """Read the step from a checkpoint's name."""
    name = _NAME.fullmatch(path.name)
    assert name is not None
    return int(name[1])


def checkpoints_in(folder: Path) -> list[Path]:
    """List the checkpoints in ``folder``, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(item for item in folder.iterdir() if _NAME.fullmatch(item.name))


def find_checkpoint(path: Path) -> Path:
    """Find the checkpoint that ``path`` means.

    Returns:
        The file itself, or the newest checkpoint of a run folder or of its ``checkpoints`` folder.

    Raises:
        RGBXError: there is none.
    """
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        found = checkpoints_in(folder)
        if found:
            return found[-1]
    raise RGBXError(f"there is no checkpoint in {path} to resume from")


def prune_checkpoints(folder: Path, keep: int, step: int) -> None:
    """Remove all checkpoints but the ``keep`` newest of a run that stands at ``step``.

    Checkpoints of later steps were made before the run went back to an earlier one, so they are removed as well.
    """
    reached = [path for path in checkpoints_in(folder) if step_of(path) <= step]
    kept = set(reached[-keep:])
    for path in checkpoints_in(folder):
        if path not in kept:
            path.unlink(missing_ok=True)


def rng_state() -> dict[str, Any]:
    """Return the states of torch's, numpy's and Python's global generators, in types that weights_only reads."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (libraries draw from it)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "python": {"version": version, "numbers": torch.tensor(numbers, dtype=torch.int64), "gauss": gauss},
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put the generators back into a state that :func:`rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    numbers = state["numpy"]
    keys = numbers["keys"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        ("MT19937", keys, numbers["position"], numbers["has_gauss"], numbers["cached"])
    )
    python = state["python"]
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))


def seed_process(seed: int, rank: int, step: int = 0) -> None:
    """Seed torch for dropout in one of several processes. The same three numbers give the same random numbers."""
    torch.manual_seed(int(np.random.default_rng([seed, rank, step]).integers(2**63)))


def seed_everything(seed: int, deterministic: bool = True) -> None:
    """Seed torch, numpy and Python, and switch torch's deterministic algorithms on or off."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # It would fill every fresh tensor with NaN: a debugging aid that costs a pass over memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_module(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse a state dict that does not hold just the ``expected`` tensors.

    Raises:
        RGBXError: naming a tensor that is missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (unknown, "has the unknown"), (shapes, "has another shape of")):
        if names:
            raise RGBXError(
                f"{path} does not fit the configured network: it {what} {shortened(names)}; "
                "resume with the configuration that the run was started with"
            )
