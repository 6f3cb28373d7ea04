"""RGB with thermal infrared: LasHeR, RGBT234, RGBT210, GTOT, VTUAV.

The first four count pixels from 1, VTUAV from 0. LasHeR is aligned, and its two box files are equal; RGBT234, GTOT and
VTUAV were annotated in each image, and a sequence's boxes are those of the visible one.
"""

from __future__ import annotations

import re
from pathlib import Path

from tracker.data.layouts.annotations import write_boxes
from tracker.data.layouts.frames import FrameList, any_frame, frame_numbers
from tracker.data.layouts.layout import Layout, Naming, Places, Reading, required
from tracker.data.sequence import Sequence


class VisibleInfrared(Layout):
    """``visible/`` and ``infrared/``, boxes in ``x,y,w,h`` from 1, no area where the target is absent."""

    modality = "thermal"
    origin = 1.0

    def places(self, folder: Path, reading: Reading) -> Places | None:
        return required(folder, self.name, "visible", "infrared", "thermal", reading)


def _numbered_234(folder: Path) -> bool:
    """RGBT234 and RGBT210 name frames ``00001v.jpg``; LasHeR does not, whatever else it does."""
    return re.fullmatch(r"[0-9]+v\.[a-z]+", any_frame(folder / "visible")) is not None


def _has_images(folder: Path) -> bool:
    return (folder / "visible").is_dir() and (folder / "infrared").is_dir()


class LasHeR(VisibleInfrared):
    """``v000.jpg`` and ``i000.jpg`` by name, in truth anything: frames are sorted, no name is composed."""

    name = "lasher"
    box_files = ("visible.txt", "init.txt", "infrared.txt")
    x_box_file = "infrared.txt"
    lists = {"train": "trainingsetList.txt", "test": "testingsetList.txt"}  # noqa: RUF012

    def recognizes(self, folder: Path) -> bool:
        return _has_images(folder) and any((folder / name).is_file() for name in self.box_files)

    def naming(self, modality: str) -> Naming:
        return Naming("visible/v{index:03d}.jpg", "infrared/i{index:03d}.jpg", 0)

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        for file in self.box_files:
            self._write_boxes(folder / file, sequence.boxes)


class RGBT234(VisibleInfrared):
    """Two box files that differ; ``init.txt`` is neither's own and is read only where both are missing."""

    name = "rgbt234"
    box_files = ("visible.txt", "init.txt")
    x_box_file = "infrared.txt"
    lists = {"test": "RGBT234.txt"}  # noqa: RUF012
    official = ("test",)

    def recognizes(self, folder: Path) -> bool:
        return _has_images(folder) and (folder / "visible.txt").is_file() and _numbered_234(folder)

    def naming(self, modality: str) -> Naming:
        return Naming("visible/{index:05d}v.jpg", "infrared/{index:05d}i.jpg")

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        infrared = sequence.boxes if sequence.x_boxes is None else sequence.x_boxes
        self._write_boxes(folder / "visible.txt", sequence.boxes)
        self._write_boxes(folder / "infrared.txt", infrared)
        self._write_boxes(folder / "init.txt", sequence.boxes)


class RGBT210(VisibleInfrared):
    """The images of RGBT234's kind with ``init.txt`` alone."""

    name = "rgbt210"
    box_files = ("init.txt",)
    lists = {"test": "RGBT210.txt"}  # noqa: RUF012
    official = ("test",)

    def recognizes(self, folder: Path) -> bool:
        others = ("visible.txt", "infrared.txt")
        return (
            _has_images(folder)
            and (folder / "init.txt").is_file()
            and not any((folder / name).is_file() for name in others)
            and _numbered_234(folder)
        )

    def naming(self, modality: str) -> Naming:
        return Naming("visible/{index:05d}v.jpg", "infrared/{index:05d}i.jpg")


class GTOT(Layout):
    """``v/`` and ``i/``, corners separated by spaces in either order, ``init.txt`` (tabs, corner and size) beside."""

    name = "gtot"
    modality = "thermal"
    box_files = ("groundTruth_v.txt",)
    x_box_file = "groundTruth_i.txt"
    origin = 1.0
    corners = True
    lists = {"test": "SequencesName.txt"}  # noqa: RUF012
    official = ("test",)

    def recognizes(self, folder: Path) -> bool:
        files = ("groundTruth_v.txt", "groundTruth_i.txt")
        return all((folder / n).is_dir() for n in ("v", "i")) and any((folder / n).is_file() for n in files)

    def places(self, folder: Path, reading: Reading) -> Places | None:
        return required(folder, self.name, "v", "i", "thermal", reading)

    def naming(self, modality: str) -> Naming:
        return Naming("v/{index:05d}v.png", "i/{index:05d}i.png")

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        infrared = sequence.boxes if sequence.x_boxes is None else sequence.x_boxes
        for file, boxes in (("groundTruth_v.txt", sequence.boxes), ("groundTruth_i.txt", infrared)):
            write_boxes(folder / file, boxes, "0 0 0 0", origin=self.origin, corners=True, separator=" ")
        write_boxes(folder / "init.txt", sequence.boxes, "0\t0\t0\t0", origin=self.origin, separator="\t")


class VTUAV(Layout):
    """``rgb/`` and ``ir/`` with frames from ``000000.jpg``; ``rgb.txt`` and ``ir.txt`` have a box for each tenth frame.

    The first box is of the first frame. The others are of the frames that are numbered ten, twenty and so on higher, as
    the data set's authors read them in training. Where such a frame is missing they are of every tenth frame in order,
    as the authors' evaluation reads results.
    """

    name = "vtuav"
    modality = "thermal"
    box_files = ("rgb.txt",)
    x_box_file = "ir.txt"
    absent = "0 0 0 0"
    lists = {"train": "train_ST.txt", "test": "test_ST.txt"}  # noqa: RUF012
    x_folders = ("ir", "ir_gray")
    step = 10
    expected_boxes = "one for each tenth frame, or one for each"

    def recognizes(self, folder: Path) -> bool:
        images = (folder / "rgb").is_dir() and any((folder / name).is_dir() for name in self.x_folders)
        return images and (folder / "rgb.txt").is_file()

    def places(self, folder: Path, reading: Reading) -> Places | None:
        x = next((name for name in self.x_folders if (folder / name).is_dir()), self.x_folders[0])
        return required(folder, self.name, "rgb", x, "thermal", reading)

    def naming(self, modality: str) -> Naming:
        return Naming("rgb/{index:06d}.jpg", "ir/{index:06d}.jpg", 0)

    def annotated_frames(self, rgb: FrameList, boxes: int, reading: Reading, name: str) -> list[int] | None:
        if boxes == len(rgb) or not boxes:
            return None
        numbers = frame_numbers(rgb.names)
        if numbers is not None:
            places = {number: index for index, number in enumerate(numbers)}
            wanted = range(numbers[0], numbers[0] + self.step * boxes, self.step)
            if all(number in places for number in wanted):
                return [places[number] for number in wanted]
        if self.step * (boxes - 1) >= len(rgb):
            return None
        reading.notes.append("numbers of frames are missing, so boxes are taken to be of every tenth frame in order")
        return list(range(0, self.step * boxes, self.step))

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        infrared = sequence.boxes if sequence.x_boxes is None else sequence.x_boxes
        for file, boxes in (("rgb.txt", sequence.boxes), ("ir.txt", infrared)):
            write_boxes(folder / file, boxes[:: self.step], self.absent, separator=" ")
