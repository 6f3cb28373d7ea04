"""The folder of a run. It belongs to one run, and what it holds suffices to go on with that run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker.config import RunConfig, load_config
from tracker.errors import RGBXError
from tracker.train.checkpoint import checkpoints_in, find_checkpoint, load_checkpoint

log = logging.getLogger("rgbx")

NETWORK = "network.safetensors"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

SAME_BITS = (
    "output", "train.workers", "train.prefetch", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints",
    "train.activation_checkpointing", "validation.*",
)  # fmt: skip
"""Settings that a resumed run may change: not one weight depends on them."""
PLACES = ("init", "data.root", "data.rgb", "data.x", "optimizer.prior")
"""Where files lie, which may have moved. What is in them has to be the same."""
ROUNDING = (
    "train.device", "train.tf32", "train.compile", "train.channels_last", "train.deterministic", "train.accumulate",
)  # fmt: skip
"""Settings that a resumed run may change, of which weights depend by rounding alone."""


def claim(folder: Path, resume: Path | None) -> None:
    """Refuse the folder of another run, before anything is read or written.

    Args:
        folder: where the run is going to write.
        resume: the checkpoint or folder that it goes on from; one in ``folder`` makes the folder this run's own.

    Raises:
        RGBXError: the folder holds checkpoints or a network of another run.
    """
    if resume is not None and find_checkpoint(resume).resolve().is_relative_to(folder.resolve()):
        return
    found = [*checkpoints_in(folder / CHECKPOINTS)[-1:], *(p for p in (folder / NETWORK,) if p.exists())]
    if found:
        raise RGBXError(
            f"{folder} holds another run already ({found[0]}); go on with that run by --resume {folder}, or give this "
            "one a folder of its own by output=..."
        )


def clear(folder: Path) -> None:
    """Remove what a run has left in a folder that is written anew."""
    for name in (CHECKPOINTS, TENSORBOARD):
        shutil.rmtree(folder / name, ignore_errors=True)


def resumed_config(resume: Path, command: str, path: str | None, overrides: Sequence[str]) -> tuple[RunConfig, str]:
    """Return the configuration that a run goes on with, and the command line that it was started by.

    The checkpoint has both. A configuration file and overrides that are given all the same are compared with them.

    Args:
        resume: a checkpoint, or the folder of a run.
        command: ``train`` or ``pretrain``.
        path: the configuration file, or None.
        overrides: ``section.key=value``.

    Raises:
        RGBXError: a checkpoint of another command, or a setting that differs and is not harmless.
    """
    file = find_checkpoint(resume)
    state = load_checkpoint(file)
    made_by = state.get("command", command)
    if made_by in ("train", "pretrain") and made_by != command:
        raise RGBXError(f"{file} is a checkpoint of `rgbx {made_by}`; go on with `rgbx {made_by} --resume {resume}`")
    stored = dict(state["config"])
    if "command" not in state and stored["data"]["source"] == "folder":
        # Older runs stored the generator's modality beside files, which it said nothing of.
        stored["data"] = {**stored["data"], "modality": None}
    if file.parent.name == CHECKPOINTS:
        stored["output"] = str(file.parent.parent)  # the folder may have been moved
    if path is None:
        config = load_config(RunConfig, None, overrides, stored, command)
    else:
        config = load_config(RunConfig, path, overrides, None, command)
    before = load_config(RunConfig, None, (), stored)
    for key, old, new in differences(before.model_dump(mode="json"), config.model_dump(mode="json")):
        if _listed(key, ROUNDING):
            log.warning("%s was %s and is %s: the run goes on, to weights that differ by rounding", key, old, new)
        elif not _listed(key, (*SAME_BITS, *PLACES)):
            raise RGBXError(
                f"{key} is {new}, and {file} was made with {old}; leave {key} out to go on with that run, or start a "
                "run of its own in another folder"
            )
    return config, str(state.get("invocation", ""))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted names of settings that differ between two nested mappings of the same keys, with both values."""
    for name in old:
        key, one, other = f"{prefix}{name}", old[name], new[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{key}.")
        elif key == "data.sets":
            if [_at_home(part) for part in one] != [_at_home(part) for part in other]:
                yield key, one, other
        elif one != other:
            yield key, one, other


def _at_home(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set without its place."""
    return {name: value for name, value in part.items() if name != "root"}


def _listed(key: str, names: Sequence[str]) -> bool:
    return any(key == name or (name.endswith(".*") and key.startswith(name[:-1])) for name in names)
