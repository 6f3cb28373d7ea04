"""What is wrong with a data set, sequence by sequence, without stopping at the first fault."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracker.data.layouts import LAYOUTS, detect_layout, load_sequence, sequence_folders
from tracker.data.sampling import CausalPairSampler
from tracker.errors import RGBXError


@dataclass
class SequenceReport:
    """One sequence.

    Attributes:
        name, folder, layout, modality: what it is; layout and modality are "" where they cannot be told.
        frames: number of RGB frames found.
        usable: frames of which both images decode and have one size (all of them where nothing was decoded).
        present: frames that show the target.
        problems: sentences; a sequence with none can be trained and evaluated on.
        notes: what is odd and does no harm.
    """

    name: str
    folder: Path
    layout: str = ""
    modality: str = ""
    frames: int = 0
    usable: int = 0
    present: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """A data set: its sequences, and problems that belong to none of them."""

    root: Path
    sequences: list[SequenceReport]
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No problem anywhere."""
        return not self.problems and all(not s.problems for s in self.sequences)

    def __str__(self) -> str:
        lines = list(self.problems)
        for s in self.sequences:
            state = "ok" if not s.problems else f"{len(s.problems)} problem{'s' if len(s.problems) > 1 else ''}"
            kind = f"{s.layout or 'unknown layout'}, {s.modality or 'unknown modality'}"
            lines.append(f"{s.name}: {state}; {kind}; {s.usable}/{s.frames} frames usable, target in {s.present}")
            lines += [f"  - {text}" for text in s.problems]
            lines += [f"  ({text})" for text in s.notes]
        good = sum(not s.problems for s in self.sequences)
        lines.append(f"{good} of {len(self.sequences)} sequences in {self.root} are usable as they are")
        return "\n".join(lines)


def check_dataset(
    root: str | os.PathLike[str],
    layout: str = "auto",
    split: str | None = None,
    decode: bool = True,
    progress: bool = False,
) -> Report:
    """Look at every sequence of a data set (or at one sequence's folder).

    Args:
        root, layout, split: as for :func:`tracker.data.layouts.open_dataset`.
        decode: decode every frame; without it only names, numbers, boxes and the first image's header are
            looked at.
        progress: show a progress bar.

    Raises:
        RGBXError: an unknown layout; everything else is in the report.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise RGBXError(f"layout is {layout!r}; expected auto or one of {', '.join(LAYOUTS)}")
    report = Report(Path(root), [])
    try:
        folders = sequence_folders(root, layout, split)
    except RGBXError as error:
        report.problems.append(str(error))
        return report
    if split is None and len(folders) and folders[0] != report.root:
        known = set(folders)
        for other in sorted(p for p in report.root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if other not in known and not any(other in folder.parents for folder in folders):
                report.problems.append(f"{other} is not a sequence in a known layout ({', '.join(LAYOUTS)})")
    for folder in tqdm(folders, desc="sequences", disable=not progress):
        report.sequences.append(check_sequence(folder, layout, decode))
    return report


def check_sequence(folder: str | os.PathLike[str], layout: str = "auto", decode: bool = True) -> SequenceReport:
    """Look at one sequence's folder; see :func:`check_dataset`."""
    path = Path(folder)
    found = SequenceReport(path.name, path)
    found.layout = (detect_layout(path) or "") if layout == "auto" else layout
    sequence = load_sequence(path, layout, found.problems)
    if sequence is None:
        return found
    found.modality = sequence.modality
    found.frames = found.usable = sequence.length
    found.present = int(sequence.present.sum())
    if decode:
        found.usable = 0
        size: tuple[int, ...] | None = None
        for index in range(sequence.length):
            try:
                shape = sequence.frame(index).shape[:2]
            except RGBXError as error:
                if str(error) not in found.problems:
                    found.problems.append(str(error))
                continue
            found.usable += 1
            if size is None:
                size = shape
            elif shape != size:
                found.notes.append(f"frame {index} is {shape[1]}x{shape[0]}, the first one {size[1]}x{size[0]}")
    if not np.isfinite(sequence.boxes).any():
        found.notes.append("no boxes: good for `rgbx track`, not for training or evaluation")
    else:
        try:
            CausalPairSampler([sequence])
        except RGBXError as error:
            found.notes.append(f"not drawn in training: {str(error).split(': ', 1)[-1]}")
        if not sequence.present[0]:
            found.notes.append(
                "the target is absent in the first frame; a tracker starts at the first frame that shows it"
            )
    return found
