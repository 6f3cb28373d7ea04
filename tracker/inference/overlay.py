"""Pictures of a run: RGB and X side by side, with the boxes of the ground truth and of the trackers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib.font_manager
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.evaluation.frame_errors import overlap
from tracker.evaluation.plots import COLORS
from tracker.files import atomic_path
from tracker.inference.tracking import Track, Tracked, picture

TRUTH_COLOR = "#ffffff"
PAPER, INK, FAINT = "#16191d", "#f2f2f2", "#9aa3ad"
GAP, MARGIN, HEADER, LINE = 6, 8, 24, 19
SHORTEST_GIF = 24
NARROWEST_PANEL = 120


@dataclass(frozen=True)
class Mark:
    """A tracker's answer in one frame, as it is drawn.

    It has a label, a box ``x, y, w, h`` (NaN for none), a confidence, and whether the tracker takes the target for
    lost.
    """

    label: str
    box: np.ndarray
    score: float | None = None
    lost: bool = False


@lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib carries this font in its own package, so text looks alike everywhere.
    weight = "bold" if bold else "regular"
    properties = matplotlib.font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(matplotlib.font_manager.findfont(properties), size)


def _panel(image: np.ndarray, width: int) -> Image.Image:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return Image.fromarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method))


def _outline(draw: ImageDraw.ImageDraw, box: np.ndarray, scale: float, color: str, thick: int) -> None:
    if not np.isfinite(box).all():
        return
    left, top = box[0] * scale, box[1] * scale
    right, bottom = left + max(box[2] * scale, 1.0), top + max(box[3] * scale, 1.0)
    halo = (left - 1, top - 1, right + 1, bottom + 1)
    draw.rectangle(halo, outline="#000000", width=thick + 2)
    draw.rectangle((left, top, right, bottom), outline=color, width=thick)


def compose_frame(
    frame: np.ndarray,
    marks: list[Mark],
    truth: np.ndarray | None = None,
    *,
    panel_width: int = 320,
    title: str = "",
    counter: str = "",
    modality: str = "X",
    rgb_only: bool = False,
) -> np.ndarray:
    """Draw one frame.

    Args:
        frame: (H, W, 6) uint8.
        marks: the trackers' boxes, each in its own color, with their IoU and confidence below the images.
        truth: ground truth ``x, y, w, h`` (white), NaN if the target is absent, None if it is not known.
        panel_width: width of each of the two images, in pixels.
        title: text at the top left.
        counter: text at the top right.
        modality: the caption of the X image.
        rgb_only: draw the RGB image alone.

    Returns:
        (height, width, 3) uint8, both even, the same for every frame of a video.
    """
    images = [frame[:, :, :3]] if rgb_only else [frame[:, :, :3], frame[:, :, 3:6]]
    captions = ["RGB"] if rgb_only else ["RGB", modality]
    scale = panel_width / frame.shape[1]
    panels = [_panel(image, panel_width) for image in images]
    width = len(panels) * panel_width + (len(panels) - 1) * GAP
    lines = len(marks) + (truth is not None)
    height = HEADER + panels[0].height + LINE * lines + (MARGIN if lines else 0)
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        draw = ImageDraw.Draw(panel)
        if truth is not None:
            _outline(draw, truth, scale, TRUTH_COLOR, 1)
        for k, mark in enumerate(marks):
            _outline(draw, mark.box, scale, COLORS[k % len(COLORS)], 2)
        text = _font(11, bold=True)
        left, top, right, bottom = draw.textbbox((6, 4), caption, font=text)
        draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=PAPER)
        draw.text((6, 4), caption, font=text, fill=INK)
        canvas.paste(panel, (i * (panel_width + GAP), HEADER))
    draw = ImageDraw.Draw(canvas)
    counter_width = draw.textlength(counter, font=_font(12))
    room = width - 2 * MARGIN - counter_width - 10
    draw.text((MARGIN, 5), _fit(draw, title, room), font=_font(12, bold=True), fill=INK)
    draw.text((width - MARGIN - counter_width, 5), counter, font=_font(12), fill=FAINT)
    y = HEADER + panels[0].height + MARGIN // 2
    if truth is not None:
        absent = "" if np.isfinite(truth).all() else "target absent"
        _legend(draw, y, width, TRUTH_COLOR, "ground truth", absent)
        y += LINE
    for k, mark in enumerate(marks):
        reading = []
        if truth is not None and np.isfinite(truth).all() and np.isfinite(mark.box).all():
            reading.append(f"IoU {overlap(mark.box[None], truth[None])[0]:.2f}")
        if mark.score is not None and math.isfinite(mark.score):
            reading.append(f"confidence {mark.score:.2f}")
        if mark.lost:
            reading.append("LOST")
        _legend(draw, y, width, COLORS[k % len(COLORS)], mark.label, "   ".join(reading))
        y += LINE
    return np.asarray(canvas)


def draw_tracked(tracked: Tracked) -> np.ndarray | None:
    """Draw a tracked frame with its box and, where it is known, the ground truth: see :func:`compose_frame`.

    Returns:
        (height, width, 3) uint8; None of a frame that has neither RGB nor X.
    """
    source, sequence = tracked.source, tracked.source.sequence
    frame = picture(tracked.frame)
    if frame is None:
        return None
    known = sequence is not None and int(sequence.present.sum()) > 1  # the first box was given to the tracker
    return compose_frame(
        frame,
        [Mark("tracker", tracked.result.box, tracked.result.score, tracked.result.lost)],
        sequence.boxes[tracked.index] if sequence is not None and known else None,
        title=source.name,
        counter=f"{tracked.index + 1}" + ("" if source.length is None else f" / {source.length}"),
        modality=source.modality,
        rgb_only=sequence is not None and sequence.rgb_only,
    )


def _fit(draw: ImageDraw.ImageDraw, text: str, room: float) -> str:
    font = _font(12, bold=True)
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(text + "…", font=font) > room:
        text = text[:-1]
    return text + "…"


def _legend(draw: ImageDraw.ImageDraw, y: int, width: int, color: str, label: str, reading: str) -> None:
    font = _font(12)
    draw.rectangle((MARGIN, y + 4, MARGIN + 14, y + 12), fill=ImageColor.getrgb(color))
    room = width - 3 * MARGIN - 22 - draw.textlength(reading, font=font)
    draw.text((MARGIN + 22, y), _fit(draw, label, room), font=font, fill=INK)
    draw.text((width - MARGIN - draw.textlength(reading, font=font), y), reading, font=font, fill=FAINT)


def _pictures(
    sequence: Sequence,
    tracks: Mapping[str, Track | np.ndarray],
    indices: list[int],
    panel_width: int,
    with_truth: bool,
    title: str | None,
) -> Iterator[np.ndarray]:
    for i in indices:
        marks = [
            Mark(label, track.boxes[i], float(track.scores[i]), track.lost is not None and bool(track.lost[i]))
            if isinstance(track, Track)
            else Mark(label, np.asarray(track[i], dtype=np.float64))
            for label, track in tracks.items()
        ]
        yield compose_frame(
            sequence.frame(i),
            marks,
            sequence.boxes[i] if with_truth else None,
            panel_width=panel_width,
            title=sequence.name if title is None else title,
            counter=f"{i + 1} / {sequence.length}",
            modality=sequence.modality,
            rgb_only=sequence.rgb_only,
        )


def write_overlay(
    path: str | Path,
    sequence: Sequence,
    tracks: Mapping[str, Track | np.ndarray],
    *,
    panel_width: int = 320,
    fps: float = 20.0,
    max_bytes: int = 4_000_000,
    max_frames: int = 100,
    truth: bool = True,
    title: str | None = None,
) -> Path:
    """Write a run as a GIF or an MP4, told by the suffix.

    Args:
        path: ``.gif`` or ``.mp4``.
        sequence: the frames.
        tracks: label to a track, or to (N, 4) boxes.
        panel_width: width of each of the two images in pixels. A GIF may be made narrower.
        fps: frames of the sequence shown per second.
        max_bytes: a GIF stays below this. Frames are left out (its speed stays) and, if few are left, it is drawn
            smaller.
        max_frames: frames of a GIF. An MP4 has all frames.
        truth: draw the ground truth if the sequence has any beyond the first box.
        title: replaces the sequence's name.

    Returns:
        The path.

    Raises:
        RGBXError: another suffix, a track of another length, nothing to draw, or no MP4 encoder in OpenCV.
    """
    path = Path(path)
    for label, track in tracks.items():
        count = len(track.boxes) if isinstance(track, Track) else len(track)
        if count != sequence.length:
            raise RGBXError(
                f"{label} has {count} boxes for the {sequence.length} frames of {sequence.name}; expected one a frame"
            )
    if sequence.length == 0:
        raise RGBXError(f"sequence {sequence.name} has no frames to draw")
    with_truth = truth and int(sequence.present.sum()) > 1
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise RGBXError(f"cannot write {path.name}; expected a name that ends in .gif or .mp4")
    with atomic_path(path) as part:
        if path.suffix.lower() == ".mp4":
            everything = list(range(sequence.length))
            _write_mp4(part, _pictures(sequence, tracks, everything, panel_width, with_truth, title), fps)
        else:
            part.write_bytes(_fitting_gif(sequence, tracks, panel_width, with_truth, title, fps, max_bytes, max_frames))
    return path


def _fitting_gif(
    sequence: Sequence,
    tracks: Mapping[str, Track | np.ndarray],
    panel_width: int,
    with_truth: bool,
    title: str | None,
    fps: float,
    max_bytes: int,
    max_frames: int,
) -> bytes:
    stride = max(1, math.ceil(sequence.length / max(1, max_frames)))
    while True:
        indices = list(range(0, sequence.length, stride))
        pictures = _pictures(sequence, tracks, indices, panel_width, with_truth, title)
        data = _encode_gif(pictures, stride / fps)
        if len(data) <= max_bytes or (panel_width <= NARROWEST_PANEL and len(indices) == 1):
            return data
        excess = len(data) / max_bytes
        if len(indices) > SHORTEST_GIF or panel_width <= NARROWEST_PANEL:
            # At least one frame more is skipped each time, so this ends.
            stride = max(stride + 1, min(math.ceil(stride * excess), sequence.length // SHORTEST_GIF))
        else:
            panel_width = max(NARROWEST_PANEL, min(int(panel_width / math.sqrt(excess)), panel_width - 8))


def _encode_gif(pictures: Iterator[np.ndarray], seconds: float) -> bytes:
    # Without dithering flat areas stay flat, which halves the file.
    frames = [
        Image.fromarray(p).quantize(colors=128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for p in pictures
    ]
    buffer = io.BytesIO()
    duration = max(20, 10 * round(seconds * 100))
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


class VideoWriter:
    """An MP4 file, picture by picture.

    Args:
        path: ends in ``.mp4``.
        fps: of the video.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray) -> None:
        """Append one more picture, (H, W, 3) uint8, both sides even, all of one size.

        Raises:
            RGBXError: this OpenCV has no encoder.
        """
        if self._writer is None:
            height, width = picture.shape[:2]
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), fourcc, self.fps, (width, height))
            if not self._writer.isOpened():
                raise RGBXError("this OpenCV cannot write MP4 files; write a .gif instead")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file; there is none if no picture was added."""
        if self._writer is not None:
            self._writer.release()


def _write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    writer = VideoWriter(path, fps)
    try:
        for picture in pictures:
            writer.add(picture)
    finally:
        writer.close()
