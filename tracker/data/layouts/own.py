"""Any two folders of images, with or without boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tracker.data.layouts.frames import EVENT_SUFFIXES, FrameList, PartialFrameList, frame_files, frame_numbers
from tracker.data.layouts.layout import Layout, Naming, Places, Reading
from tracker.data.registration import find_registration, read_registration
from tracker.errors import RGBXError

RGB_FOLDERS = ("visible", "color", "colour", "rgb", "vis_imgs", "vis", "v", "img")
X_FOLDERS = {
    "infrared": "thermal",
    "thermal": "thermal",
    "ir": "thermal",
    "i": "thermal",
    "depth": "depth",
    "event": "event",
    "events": "event",
    "event_imgs": "event",
    "evimg": "event",
}


class OwnFolders(Layout):
    """An RGB folder and an X folder by their usual names, or two folders that are named.

    Args:
        rgb, x: the two folders, relative to a sequence's or absolute; None finds them by name.
        modality: of the X folder that is named; by its name where None.

    Raises:
        RGBXError: one folder without the other, or an X folder of which the modality cannot be told.
    """

    name = "folders"
    box_files = ("groundtruth.txt", "groundtruth_rect.txt")
    boxes_required = False
    absent = "nan,nan,nan,nan"
    official = ()
    fitted = True

    def __init__(self, rgb: Path | None = None, x: Path | None = None, modality: str | None = None) -> None:
        if (rgb is None) != (x is None):
            raise RGBXError("one of the two folders is named and the other is not; name both, or neither")
        if x is not None and modality is None:
            modality = X_FOLDERS.get(x.name.lower())
            if modality is None:
                raise RGBXError(f"the modality of {x} cannot be told from its name; say thermal, depth or event")
        self.rgb, self.x, self.x_modality = rgb, x, modality

    def recognizes(self, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in RGB_FOLDERS)

    def x_frames(self, folder: Path) -> FrameList:
        return frame_files(folder) or frame_files(folder, EVENT_SUFFIXES)

    def by_number(self, name: str, rgb: FrameList, x: FrameList, reading: Reading) -> PartialFrameList | None:
        """Pair X with RGB by the numbers in their names, with gaps where X is missing."""
        numbers, own = frame_numbers(rgb.names), frame_numbers(x.names)
        known = numbers is not None and len(set(numbers)) == len(numbers)
        if not known or numbers is None or own is None or len(set(own)) != len(own):
            reading.problems.append(
                f"sequence {name}: {len(rgb)} frames in {rgb.folder} but {len(x)} in {x.folder}; expected as many of "
                "each, or a number of its own in each name to pair them by"
            )
            return None
        alone = next((file for file, number in zip(x.names, own, strict=True) if number not in set(numbers)), None)
        if alone is not None:
            reading.problems.append(
                f"sequence {name}: {len(rgb)} frames in {rgb.folder} but {len(x)} in {x.folder}, and {alone} has no "
                "RGB frame of its number; expected as many of each, or the same numbers in both"
            )
            return None
        by_number = dict(zip(own, x.names, strict=True))
        reading.notes.append(f"X is missing for {len(rgb) - len(x)} of {len(rgb)} frames; the rest is paired by number")
        return PartialFrameList(x.folder, [by_number.get(number) for number in numbers])

    def registration(self, folder: Path, reading: Reading) -> np.ndarray | None:
        """Read the map in the sequence's folder, or the one in the data set's folder, which is for every sequence."""
        path = find_registration(folder, folder.parent)
        if path is None:
            return None
        try:
            return read_registration(path)
        except RGBXError as error:
            reading.problems.append(f"sequence {folder.name}: {error}")
            return None

    def places(self, folder: Path, reading: Reading) -> Places | None:
        if self.rgb is not None and self.x is not None and self.x_modality is not None:
            places = Places(folder / self.rgb, folder / self.x, self.x_modality)
            for path in (places.rgb, folder / self.x):
                if not path.is_dir():
                    reading.problems.append(f"sequence {folder.name}: there is no folder {path}; check the path")
                    return None
            return places
        rgb = [n for n in RGB_FOLDERS if (folder / n).is_dir()]
        x = [n for n in X_FOLDERS if (folder / n).is_dir()]
        if len(rgb) != 1 or len(x) > 1:
            reading.problems.append(
                f"sequence {folder.name}: {folder} holds {', '.join(rgb + x) or 'no image folder'}; expected one RGB "
                f"folder ({', '.join(RGB_FOLDERS)}) and at most one X folder ({', '.join(X_FOLDERS)})"
            )
            return None
        return Places(folder / rgb[0], folder / x[0] if x else None, X_FOLDERS[x[0]] if x else "rgb")

    def naming(self, modality: str) -> Naming:
        x = {"thermal": "infrared", "depth": "depth", "event": "event"}.get(modality)
        return Naming("visible/{index:06d}.png", None if x is None else x + "/{index:06d}.png")
