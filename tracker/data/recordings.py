"""Event cameras' recordings (AEDAT4): frames with their times, and the events between two times.

Read and written by iniVation's dv-processing, which ``pip install "srft-kernels[events]"`` brings along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError

EXPOSURE_US = 10_000
INTERVAL_US = 33_333


@dataclass(frozen=True)
class RecordedFrame:
    """A frame of a recording.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        start, end: its exposure, microseconds; equal where the recording does not say how long it was.
    """

    image: np.ndarray
    start: int
    end: int


def _library() -> Any:
    try:
        import dv_processing
    except ImportError:
        raise RGBXError(
            'recordings of event cameras are read by dv-processing, which is not installed; pip install "srft-kernels'
            '[events]"'
        ) from None
    return dv_processing


class Recording:
    """An ``.aedat4`` file.

    Attributes:
        size: (W, H) of the events, pixels.

    Raises:
        RGBXError: the library is missing, or the file is cut off, is no recording, or holds no events.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = _library()
        try:
            self._reader = library.io.MonoCameraRecording(str(path))
        except RuntimeError:
            what = "is cut off or no AEDAT4 recording; restore it" if path.is_file() else "does not exist"
            raise RGBXError(f"{path} {what}") from None
        if not self._reader.isEventStreamAvailable():
            raise RGBXError(f"{path} holds no events; expected a recording with events and frames")
        width, height = self._reader.getEventResolution()
        self.size = (int(width), int(height))

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield the frames in order; once for each opened recording.

        Raises:
            RGBXError: the recording has none, or breaks off.
        """
        if not self._reader.isFrameStreamAvailable():
            raise RGBXError(f"{self.path} holds no frames, so that nothing says which events belong together")
        while True:
            frame = self._ask(self._reader.getNextFrame)
            if frame is None:
                return
            image = np.asarray(frame.image)
            image = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image[:, :, ::-1]
            start = int(frame.timestamp)
            exposure = round(frame.exposure.total_seconds() * 1e6)
            yield RecordedFrame(np.ascontiguousarray(image), start, start + max(0, exposure))

    def events(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y, t (microseconds) and polarity (1 ON, 0 OFF), each (K,), of the events in [start, end), by time.

        Raises:
            RGBXError: the recording is damaged there.
        """
        store = self._ask(lambda: self._reader.getEventsTimeRange(start, end))
        if store is None or len(store) == 0:
            empty = np.zeros(0, dtype=np.int64)
            return empty, empty, empty, empty
        events = store.numpy()
        return events["x"], events["y"], events["timestamp"], events["polarity"]

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        except RuntimeError as error:
            raise RGBXError(f"{self.path} is damaged ({str(error).splitlines()[0][:80]}); restore it") from None


def write_recording(path: Path, sequence: Sequence) -> None:
    """Write a generated event sequence's frames and events; a frame's events lie evenly in its exposure.

    Raises:
        RGBXError: the library is missing, or the sequence has no map of polarities, (H, W), for each frame.
    """
    library = _library()
    rgb, polarity = sequence.raw(0)
    if polarity is None or polarity.ndim != 2 or sequence.modality != "event":
        raise RGBXError(f"sequence {sequence.name} has no events, which a recording is made of")
    size = (rgb.shape[1], rgb.shape[0])
    config = library.io.MonoCameraWriter.DAVISConfig("generated", size)
    writer = library.io.MonoCameraWriter(str(path), config)
    sensor = library.FrameSource.SENSOR
    for index in range(sequence.length):
        rgb, polarity = sequence.raw(index)
        assert polarity is not None
        start = 1_000_000 + index * INTERVAL_US
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        writer.writeFrame(library.Frame(start, EXPOSURE_US, 0, 0, bgr, sensor))
        rows, columns = np.nonzero(polarity)
        store = library.EventStore()
        for k, (y, x) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            store.push_back(start + k * EXPOSURE_US // len(rows), x, y, bool(polarity[y, x] > 0))
        if len(rows):
            writer.writeEvents(store)
