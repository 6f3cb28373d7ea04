"""A disk that is full, for tests of what is written."""

from __future__ import annotations

import builtins
import errno
from typing import Any

import pytest

from tracker import files


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that :mod:`tracker.files` opens for writing answer as a full disk does."""
    monkeypatch.setattr(files, "open", lambda _, mode: builtins.open("/dev/full", mode), raising=False)  # noqa: SIM115


def no_room(*_: Any, **__: Any) -> None:
    """Stand in for a function that meets a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")
