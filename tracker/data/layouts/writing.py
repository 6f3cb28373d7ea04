"""Sequences written as the public data sets lay them out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from tracker.data.layouts.frames import write_image
from tracker.data.layouts.layout import Layout
from tracker.data.layouts.registry import BY_NAME, LAYOUTS
from tracker.data.sequence import Sequence
from tracker.data.synthetic.generator import SyntheticSequence
from tracker.errors import RGBXError
from tracker.files import atomic_folder, write_text


def write_sequence(
    sequence: Sequence,
    root: str | os.PathLike[str],
    layout: str,
    name: str | None = None,
    lossless: bool = False,
    first: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a sequence to ``root/name``, whole or not at all.

    Args:
        sequence: any sequence. Its modality must be the layout's (any modality for ``"folders"``).
        root: folder of the data set.
        layout: one of :data:`~tracker.data.layouts.LAYOUTS`.
        name: folder's name, by default the sequence's.
        lossless: write PNG even if the layout's own format is JPEG.
        first: number of the first frame in file names; by default the layout's own.
        overwrite: replace an existing folder.

    Returns:
        The sequence's folder.

    Raises:
        RGBXError: the layout cannot hold this sequence, or the folder exists.
        OSError: the disk.
    """
    if layout not in BY_NAME:
        raise RGBXError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    form = BY_NAME[layout]
    needed = form.modality or sequence.modality
    if sequence.modality != needed:
        raise RGBXError(
            f"sequence {sequence.name} is {sequence.modality}; the {layout} layout holds {needed} sequences"
        )
    base = Path(root)
    target = base / (name or sequence.name)
    if target.exists() and not overwrite:
        raise RGBXError(f"{target} exists; choose another folder, or allow it to be overwritten")
    with atomic_folder(target) as staging:
        _write_into(staging, target.name, sequence, form, lossless, first)
    return target


def _write_into(folder: Path, name: str, sequence: Sequence, form: Layout, lossless: bool, first: int | None) -> None:
    naming = form.naming(sequence.modality)
    start = naming.first if first is None else first
    rgb_file, x_file = naming.rgb, naming.x
    if lossless:
        rgb_file = rgb_file.replace(".jpg", ".png")
        x_file = None if x_file is None else x_file.replace(".jpg", ".png")
    for file in (rgb_file, x_file):
        if file is not None:
            (folder / file.format(name=name, index=0)).parent.mkdir(parents=True, exist_ok=True)
    for index in range(sequence.length):
        rgb, x = sequence.raw(index)
        write_image(folder / rgb_file.format(name=name, index=start + index), rgb)
        if x_file is None:
            continue
        if x is None:
            raise RGBXError(
                f"sequence {sequence.name} has no {sequence.modality} images; the {form.name} layout needs them"
            )
        if sequence.modality == "depth" and x.ndim == 3 and form.modality == "depth":
            raise RGBXError(
                f"sequence {sequence.name} has rendered depth only; the {form.name} layout holds millimeters"
            )
        if sequence.modality == "event" and isinstance(sequence, SyntheticSequence):
            x = sequence.render_x(x)
        write_image(folder / x_file.format(name=name, index=start + index), x)
    form.write_annotations(folder, sequence)


def write_dataset(
    sequences: Iterable[Sequence],
    root: str | os.PathLike[str],
    layout: str,
    split: str | None = None,
    lossless: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Write sequences, and the list file of ``split`` (``"train"`` or ``"test"``), in one layout.

    Raises:
        RGBXError, OSError: as :func:`write_sequence`, or a split that the data set does not have; the sequences
            already complete stay, the list is not written.
    """
    if layout not in BY_NAME:
        raise RGBXError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    lists = BY_NAME[layout].lists
    if split is not None and split not in lists:
        raise RGBXError(f"split is {split!r}; expected one of {', '.join(lists)}")
    written: list[Path] = []
    for sequence in tqdm(list(sequences), desc="sequences", disable=not progress):
        written.append(write_sequence(sequence, root, layout, lossless=lossless, overwrite=overwrite))
    if split is not None:
        write_text(Path(root) / lists[split], "".join(f"{p.name}\n" for p in written))
    return written
