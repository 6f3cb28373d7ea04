"""A progress line with the time left, on the standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TextIO, TypeVar

T = TypeVar("T")


def with_progress(
    items: Iterable[T], total: int | None, label: str, stream: TextIO | None = None
) -> Generator[T, None, None]:
    """Yield ``items``, keeping one line on ``stream`` up to date at most five times a second.

    The last ``\\r``-terminated line is ended with a newline when the items are used up or the loop is left.
    """
    out = sys.stderr if stream is None else stream
    begin = shown = time.monotonic()
    done = 0
    _show(out, label, done, total, 0.0)
    try:
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - shown > 0.2:
                shown = now
                _show(out, label, done, total, now - begin)
    finally:
        _show(out, label, done, total, time.monotonic() - begin)
        out.write("\n")
        out.flush()


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
