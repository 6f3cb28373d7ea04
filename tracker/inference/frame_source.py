"""Where frames come from: a sequence, or videos and cameras (:mod:`tracker.inference.capture`)."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.inference.missing import Frame, available, without

if TYPE_CHECKING:
    from typing_extensions import Self


class FrameSource(abc.ABC):
    """A stream of paired frames, taken once.

    Attributes:
        name: what results are filed under.
        modality: the kind of X, as :class:`tracker.data.sequence.Sequence` names it.
        length: number of frames, as far as it is known beforehand; None for cameras.
        fps: frames per second of the stream, or None.
        live: frames are lost if nobody takes them, so none is read ahead of its turn.
        sequence: the sequence that the frames are of, where they are of one.
    """

    name: str
    modality: str = "X"
    length: int | None = None
    fps: float | None = None
    live: bool = False
    sequence: Sequence | None = None

    @abc.abstractmethod
    def __iter__(self) -> Iterator[np.ndarray | Frame]:
        """Yield the frames: (H, W, 6) uint8, or the halves that there are."""

    def known_boxes(self) -> Iterator[tuple[int, np.ndarray]]:
        """Iterate over the frames in which the target's box is known beforehand: index and box, in order."""
        return iter(())

    def frames_from(self, index: int) -> Iterator[np.ndarray | Frame]:
        """Return the frames from ``index`` on.

        Raises:
            RGBXError: the source cannot be entered in the middle, and ``index`` is not 0.
        """
        if index:
            raise RGBXError(f"{self.name} is taken from its first frame on, not from frame {index}")
        return iter(self)

    def close(self) -> None:  # noqa: B027 a source in memory has nothing to let go of
        """Let go of files and devices."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SequenceSource(FrameSource):
    """The frames of a sequence."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence: Sequence = sequence
        self.name, self.modality, self.length = sequence.name, sequence.modality, sequence.length

    def __iter__(self) -> Iterator[np.ndarray | Frame]:
        return self.frames_from(0)

    def known_boxes(self) -> Iterator[tuple[int, np.ndarray]]:
        return ((int(index), self.sequence.boxes[index]) for index in np.flatnonzero(self.sequence.present))

    def frames_from(self, index: int) -> Iterator[np.ndarray | Frame]:
        return (available(self.sequence, k) for k in range(index, self.sequence.length))


class DroppedSource(FrameSource):
    """A source as if some images had never arrived.

    Args:
        source: the whole one.
        rgb, x: frames whose RGB or X is dropped.
    """

    def __init__(self, source: FrameSource, rgb: Iterable[range] = (), x: Iterable[range] = ()) -> None:
        self.source = source
        self.name, self.modality, self.length = source.name, source.modality, source.length
        self.fps, self.live, self.sequence = source.fps, source.live, source.sequence
        self._rgb, self._x = list(rgb), list(x)

    def __iter__(self) -> Iterator[np.ndarray | Frame]:
        return self.frames_from(0)

    def known_boxes(self) -> Iterator[tuple[int, np.ndarray]]:
        return self.source.known_boxes()

    def frames_from(self, index: int) -> Iterator[np.ndarray | Frame]:
        for k, frame in enumerate(self.source.frames_from(index), start=index):
            dropped = [any(k in span for span in spans) for spans in (self._rgb, self._x)]
            yield without(frame, *dropped)

    def close(self) -> None:
        self.source.close()
