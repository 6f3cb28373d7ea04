"""RGB-X tracking: a two-stream ViT tracker, its data, training, evaluation and command line (``rgbx``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracker.inference.embedded import Tracker

__all__ = ["Tracker"]


def __getattr__(name: str) -> Any:
    # Importing the package alone must not load torch: the command line answers --help at once.
    if name == "Tracker":
        from tracker.inference.embedded import Tracker

        return Tracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
