"""Writing generated data sets, with what the published ones have beside images and boxes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracker.data import layouts
from tracker.data.layouts.registry import BY_NAME, LAYOUTS
from tracker.data.layouts.rgbt import GTOT, RGBT210, RGBT234
from tracker.data.recordings import write_recording
from tracker.data.synthetic import SyntheticConfig, SyntheticSequence, synthetic_dataset
from tracker.errors import RGBXError

ALWAYS_PRESENT = (RGBT234, RGBT210, GTOT)
"""Layouts without a way to say that the target is absent."""
RECORDINGS = {"visevent": "{name}.aedat4", "coesot": "{name}.aedat4", "fe108": "events.aedat4"}


def generate_dataset(
    config: SyntheticConfig,
    count: int,
    root: Path,
    layout: str,
    split: str | None = "train",
    recordings: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Write generated sequences in a data set's layout, with its split's list.

    RGBT234, GTOT and VTUAV get two ground truths that differ by a pixel or two, RGB-D sequences get a tag of full
    occlusion, and VOT's sequences anchors. RGBT234, RGBT210 and GTOT have no absence, so their targets never leave.

    Args:
        config: what to generate. Its modality must be the layout's.
        count: number of sequences.
        root: folder of the data set.
        layout: one of :data:`~tracker.data.layouts.LAYOUTS`.
        split: the split of the list, ``"train"`` or ``"test"``.
        recordings: also write ``.aedat4`` recordings. In FE108's layout they replace the event images, as in the
            original.
        progress: show a progress bar.

    Returns:
        The sequences' folders.

    Raises:
        RGBXError: an unknown layout, a modality or split that it does not have, recordings in a layout that has none,
            or dv-processing is missing.
        OSError: the disk.
    """
    if layout not in BY_NAME:
        raise RGBXError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if recordings and layout not in RECORDINGS:
        raise RGBXError(f"the {layout} layout has no recordings; they belong to {', '.join(RECORDINGS)}")
    if isinstance(BY_NAME[layout], ALWAYS_PRESENT):
        config = replace(config, leave=0.0, occlusion=0.0)
    if split is not None and split not in BY_NAME[layout].lists:
        split = None if BY_NAME[layout].official == ("test",) else split
    sequences = synthetic_dataset(config, count, cache=False)
    for sequence in sequences:
        _annotate(sequence, layout)
    folders = layouts.write_dataset(sequences, root, layout, split, progress=progress)
    if recordings:
        pairs = list(zip(folders, sequences, strict=True))
        for folder, sequence in tqdm(pairs, desc="recordings", disable=not progress):
            write_recording(folder / RECORDINGS[layout].format(name=folder.name), sequence)
            if layout == "fe108":
                shutil.rmtree(folder / "evimg")
    return folders


def _annotate(sequence: SyntheticSequence, layout: str) -> None:
    if layout in ("rgbt234", "gtot", "vtuav"):
        rng = np.random.default_rng((sequence.config.seed, sequence.index))
        sequence.x_boxes = second_boxes(sequence.boxes, sequence.config.size, rng)
    elif sequence.modality == "depth":
        sequence.tags = {"full-occlusion": ~sequence.present}


def second_boxes(boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return (N, 4) boxes of another annotator: corners move by up to two pixels, inside the image, never empty."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    moved = corners + rng.integers(-2, 3, corners.shape)
    limit = np.array([*size, *size], dtype=np.float64)
    moved = np.clip(moved, 0, limit)
    empty = ~((moved[:, 2:] - moved[:, :2]) >= 1).all(axis=1)
    moved[empty] = corners[empty]
    return np.concatenate([moved[:, :2], moved[:, 2:] - moved[:, :2]], axis=1)
