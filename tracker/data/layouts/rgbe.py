"""RGB with events: VisEvent, COESOT, FE108. Boxes count from 0.

Two of them come with flags of presence in a file, and the two files in use mean opposite things: beside the frames
(``absent_label.txt``, ``absent.txt``) 1 says that the target is present, in the evaluation toolkit's ``annos/absent/``
that it is absent. Where a file lies decides, unless the boxes rule that out; where they rule out both it is an error.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from pathlib import Path

import numpy as np

from tracker.data.layouts.annotations import read_flags, read_values, write_flags
from tracker.data.layouts.frames import EVENT_SUFFIXES, FrameList, frame_files
from tracker.data.layouts.layout import Layout, Naming, Places, Reading
from tracker.data.sequence import Sequence


def recording_of(folder: Path) -> Path | None:
    """Return the ``.aedat4`` file of a sequence's folder, if there is one: of the folder's name, or the first."""
    named = folder / f"{folder.name}.aedat4"
    if named.is_file():
        return named
    return next(iter(sorted(folder.glob("*.aedat4"))), None)


def presence(path: Path, flags: np.ndarray, boxes: np.ndarray, one_is_present: bool, reading: Reading) -> np.ndarray:
    """Return where the target is present, (N,) bool, from flags that may mean either and from boxes, which decide.

    A frame without a box shows no target. The place of a file gives its flags a meaning. If the flags contradict the
    boxes in that meaning, they have the opposite one, provided it agrees with every frame without a box and with more
    frames in all. Otherwise they contradict the boxes, which is a problem.
    """
    boxed = np.isfinite(boxes).all(axis=1)
    by_place: np.ndarray = flags if one_is_present else ~flags

    def fits(shown: np.ndarray) -> bool:
        return not (shown & ~boxed).any() and bool(shown.any())

    if fits(by_place) or not boxed.any():
        return np.asarray(by_place & boxed)
    if fits(~by_place) and (by_place != boxed).sum() > (~by_place != boxed).sum():
        meaning = "absent" if one_is_present else "present"
        reading.notes.append(f"1 means {meaning} in {path.name}, as its boxes say")
        return np.asarray(~by_place)
    wrong = np.flatnonzero(by_place & ~boxed)
    place = f"frame {wrong[0]} is flagged present and has no box" if len(wrong) else "no frame shows the target"
    faults = reading.problems if reading.box_faults is None else reading.box_faults
    faults.append(
        f"sequence {path.parent.name if path.stem.startswith('absent') else path.stem}: {path} contradicts the boxes "
        f"({place}), whichever way its flags are read; restore the file, or remove it to go by the boxes alone"
    )
    return np.asarray(by_place & boxed)


class Events(Layout):
    """What layouts with events share: rendered images or arrays of a frame's events, made of a recording if need be."""

    modality = "event"

    def x_frames(self, folder: Path) -> FrameList:
        return frame_files(folder) or frame_files(folder, EVENT_SUFFIXES)

    def recognizes(self, folder: Path) -> bool:
        rgb, x = self.image_folders(folder)
        return (folder / rgb).is_dir() and (folder / x).is_dir()

    def image_folders(self, folder: Path) -> tuple[str, str]:
        """Return names of the folders of RGB and event images."""
        raise NotImplementedError

    def places(self, folder: Path, reading: Reading) -> Places | None:
        names = self.image_folders(folder)
        for name in names:
            if (folder / name).is_dir():
                continue
            recording = recording_of(folder)
            remedy = (
                f"make it from {recording.name} by `rgbx data render-events`"
                if recording is not None
                else f"the {self.name} layout needs it"
            )
            reading.problems.append(f"sequence {folder.name}: the folder {folder / name} is missing; {remedy}")
            return None
        return Places(folder / names[0], folder / names[1], "event")


class VisEvent(Events):
    """``vis_imgs/`` and ``event_imgs/`` with the same file names, which start anywhere; a part is recordings only."""

    name = "visevent"
    lists = {"train": "trainlist.txt", "test": "testlist.txt"}  # noqa: RUF012

    def recognizes(self, folder: Path) -> bool:
        if super().recognizes(folder):
            return True
        boxes = (folder / self.box_files[0]).is_file()
        plain = not any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()) if boxes else False
        return boxes and plain and recording_of(folder) is not None

    def image_folders(self, folder: Path) -> tuple[str, str]:
        return "vis_imgs", "event_imgs"

    def naming(self, modality: str) -> Naming:
        return Naming("vis_imgs/frame{index:04d}.bmp", "event_imgs/frame{index:04d}.bmp", 0)

    def paired(self, name: str, rgb: ListLike[Path], x: ListLike[Path], problems: list[str]) -> bool:
        for a, b in zip(rgb, x, strict=True):
            if a.stem != b.stem:
                problems.append(
                    f"sequence {name}: {a} has no event frame of the same name (found {b.name} in its place)"
                )
                return False
        return True

    def present(self, folder: Path, boxes: np.ndarray, reading: Reading) -> np.ndarray | None:
        beside = [folder / name for name in ("absent_label.txt", "absent.txt")]
        toolkit = [
            root / place / f"{folder.name}.txt"
            for root in (folder.parent, folder.parent.parent)
            for place in ("annos/absent", "absent")
        ]
        for paths, one_is_present in ((beside, True), (toolkit, False)):
            path = next((p for p in paths if p.is_file()), None)
            if path is not None:
                flags = read_flags(path, folder.name, len(boxes), reading.problems)
                return None if flags is None else presence(path, flags, boxes, one_is_present, reading)
        return None

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        super().write_annotations(folder, sequence)
        write_flags(folder / "absent_label.txt", sequence.present)


class COESOT(Events):
    """``NAME_aps/`` and ``NAME_dvs/``, ``absent.txt``; ``start_end_index.txt`` where more frames than boxes exist."""

    name = "coesot"
    lists = {"train": "train.txt", "test": "test.txt"}  # noqa: RUF012

    def recognizes(self, folder: Path) -> bool:
        return super().recognizes(folder) or (
            (folder / "start_end_index.txt").is_file() and recording_of(folder) is not None
        )

    def image_folders(self, folder: Path) -> tuple[str, str]:
        names = []
        for suffix in ("_aps", "_dvs"):
            # A folder that was renamed keeps its images under the name it was recorded by.
            own = folder / f"{folder.name}{suffix}"
            other = own if own.is_dir() else next(iter(sorted(folder.glob(f"*{suffix}"))), own)
            names.append(other.name)
        return names[0], names[1]

    def naming(self, modality: str) -> Naming:
        return Naming("{name}_aps/frame{index:04d}.png", "{name}_dvs/frame{index:04d}.png", 0)

    def annotated(self, folder: Path, frames: int, boxes: int, reading: Reading) -> slice:
        bounds = self.bounds(folder, reading)
        if frames == boxes or bounds is None:
            return slice(None)
        start, end = bounds
        if start >= 0 and end - start + 1 in (boxes, boxes + 1) and start + boxes <= frames:
            return slice(start, start + boxes)
        return slice(None)

    def bounds(self, folder: Path, reading: Reading) -> tuple[int, int] | None:
        """First and last frame of ``start_end_index.txt``, or None."""
        path = folder / "start_end_index.txt"
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8-sig", errors="replace").replace(",", " ").split()
        try:
            start, end = (int(float(token)) for token in text)
        except ValueError:
            reading.problems.append(
                f"sequence {folder.name}: {path} is {' '.join(text)[:60]!r}; expected the numbers of the first and "
                "the last frame"
            )
            return None
        return start, end

    def present(self, folder: Path, boxes: np.ndarray, reading: Reading) -> np.ndarray | None:
        path = folder / "absent.txt"
        if not path.is_file():
            return None
        flags = read_flags(path, folder.name, len(boxes), reading.problems)
        return None if flags is None else presence(path, flags, boxes, True, reading)

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        super().write_annotations(folder, sequence)
        write_flags(folder / "absent.txt", sequence.present)
        (folder / "start_end_index.txt").write_text(f"0\n{sequence.length - 1}\n", encoding="utf-8")


class FE108(Events):
    """``img/`` with frames from 1 and ``events.aedat4``; ``groundtruth_rect.txt``.

    Event images are not part of the data set; ``rgbx data render-events`` makes them, in ``evimg/``.
    """

    name = "fe108"
    box_files = ("groundtruth_rect.txt",)
    x_folders = ("evimg", "event_imgs", "events", "event")

    def recognizes(self, folder: Path) -> bool:
        return (folder / "img").is_dir() and (
            (folder / "groundtruth_rect.txt").is_file() or (folder / "events.aedat4").is_file()
        )

    def image_folders(self, folder: Path) -> tuple[str, str]:
        return "img", next((n for n in self.x_folders if (folder / n).is_dir()), self.x_folders[0])

    def naming(self, modality: str) -> Naming:
        return Naming("img/{index:04d}.jpg", "evimg/{index:04d}.png")


def start_frames(root: Path) -> dict[str, int]:
    """Return FE108's first frame of the recording for each sequence, from ``pair.txt`` or a file for each sequence.

    ``pair.txt`` (in the root or beside it) has a line ``NAME NUMBER`` for each. ``start_frame_idx`` is a folder with
    ``NAME.txt``, or a file like ``pair.txt``.
    """
    found: dict[str, int] = {}
    for base in (root, root.parent):
        for path in (base / "pair.txt", base / "start_frame_idx", base / "start_frame_idx.txt"):
            if path.is_file():
                for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
                    *name, number = line.replace(",", " ").split() or [""]
                    if name and number.lstrip("-").isdecimal():
                        found.setdefault(name[0], int(number))
            elif path.is_dir():
                for file in sorted(path.glob("*.txt")):
                    values = read_values(file, file.stem, 1, [])
                    if values is not None:
                        found.setdefault(file.stem, int(values[0]))
    return found
