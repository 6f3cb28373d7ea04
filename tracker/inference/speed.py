"""Frames per second and latency of a run, as it was and not of a run made for the purpose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

PERCENTILES = (50, 90, 99)


class Timed(Protocol):
    """What a track tells about its time; see :class:`tracker.inference.tracking.Track`."""

    @property
    def boxes(self) -> np.ndarray: ...

    @property
    def first(self) -> int: ...

    @property
    def seconds(self) -> float: ...

    @property
    def latencies(self) -> np.ndarray | None: ...

    @property
    def decoding(self) -> np.ndarray | None: ...


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    """Return ``p50``, ``p90`` and ``p99`` in milliseconds, of finite values."""
    finite = seconds[np.isfinite(seconds)]
    return {f"p{p}": round(float(np.percentile(finite, p)) * 1e3, 3) for p in PERCENTILES} if finite.size else {}


def speed_summary(tracks: Iterable[Timed]) -> dict[str, object]:
    """Return plain values for JSON, over the frames of all tracks that were timed.

    - ``frames``, and ``fps``: frames over the seconds spent cropping and in the network, first frames included;
    - ``latency_ms``: percentiles of the time from having a frame to having its box;
    - ``latency_with_decoding_ms``: the same with the time that reading the frame took added, although a thread of its
      own reads it meanwhile: what a frame has to wait that nobody could read ahead.
    """
    timed = [t for t in tracks if np.isfinite(t.seconds) and t.latencies is not None and t.decoding is not None]
    if not timed:
        return {}
    frames = sum(len(t.boxes) - t.first for t in timed)
    latencies = np.concatenate([t.latencies for t in timed if t.latencies is not None])
    decoding = np.concatenate([t.decoding for t in timed if t.decoding is not None])
    return {
        "frames": frames,
        "fps": frames / max(sum(t.seconds for t in timed), 1e-9),
        "latency_ms": percentiles(latencies),
        "latency_with_decoding_ms": percentiles(latencies + decoding),
    }


def speed_line(summary: dict[str, object]) -> str:
    """Return one line for people; it is empty where nothing was timed."""
    if not summary:
        return ""

    def reading(key: str) -> str:
        values = summary[key]
        assert isinstance(values, dict)
        return ", ".join(f"{name} {value:.1f}" for name, value in values.items()) or "none"

    return (
        f"{summary['frames']} frames, {summary['fps']:.1f} frames per second; latency in ms: {reading('latency_ms')}; "
        f"with decoding: {reading('latency_with_decoding_ms')}"
    )
