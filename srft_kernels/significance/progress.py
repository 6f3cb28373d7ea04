"""A progress line on the standard error, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TextIO, TypeVar

T = TypeVar("T")


class ProgressLine:
    """One line on ``stream`` that says how far the work is, rewritten at most five times a second."""

    def __init__(self, total: int | None, label: str, stream: TextIO | None = None) -> None:
        self._out = sys.stderr if stream is None else stream
        self._total, self._label = total, label
        self._begin = self._shown = time.monotonic()
        self._done = 0
        _show(self._out, label, 0, total, 0.0)

    def reached(self, done: int, note: str = "") -> None:
        """Record that ``done`` of the items are finished. ``note`` follows the label."""
        self._done = done
        now = time.monotonic()
        if now - self._shown > 0.2:
            self._shown = now
            _show(self._out, f"{self._label} {note}".rstrip(), done, self._total, now - self._begin)

    def close(self) -> None:
        """Show the last state and end the line."""
        _show(self._out, self._label, self._done, self._total, time.monotonic() - self._begin)
        self._out.write("\n")
        self._out.flush()


def with_progress(
    items: Iterable[T], total: int | None, label: str, stream: TextIO | None = None
) -> Generator[T, None, None]:
    r"""Yield ``items``, and update one line on ``stream`` at most five times a second.

    The line is rewritten with ``\r``. It ends with a newline when the items are used up or the loop is left.
    """
    line = ProgressLine(total, label, stream)
    try:
        for done, item in enumerate(items, 1):
            yield item
            line.reached(done)
    finally:
        line.close()


def _show(out: TextIO, label: str, done: int, total: int | None, elapsed: float) -> None:
    rate = f"{elapsed / done:.2f} s each" if done else "…"
    if total:
        filled = 24 * min(done, total) // total
        left = _clock(elapsed / done * max(total - done, 0)) if done else "?"
        line = f"{label} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}, {rate}, {left} left"
    else:
        line = f"{label} {done} done in {_clock(elapsed)}, {rate}"
    out.write(f"\r{line:<79}")
    out.flush()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
