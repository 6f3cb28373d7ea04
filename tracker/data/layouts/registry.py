"""The layouts by name, and which of them a folder has."""

from __future__ import annotations

from pathlib import Path

from tracker.data.layouts.layout import Layout
from tracker.data.layouts.own import OwnFolders
from tracker.data.layouts.rgbd import VOTRGBD, DepthTrack
from tracker.data.layouts.rgbe import COESOT, FE108, VisEvent
from tracker.data.layouts.rgbt import GTOT, RGBT210, RGBT234, VTUAV, LasHeR
from tracker.errors import RGBXError

_ALL: tuple[Layout, ...] = (
    LasHeR(),
    RGBT234(),
    RGBT210(),
    GTOT(),
    VTUAV(),
    DepthTrack(),
    VOTRGBD(),
    VisEvent(),
    COESOT(),
    FE108(),
    OwnFolders(),
)
BY_NAME: dict[str, Layout] = {layout.name: layout for layout in _ALL}
LAYOUTS: tuple[str, ...] = tuple(BY_NAME)

# What is particular comes before what is general: the last takes any folder with a visible/ in it.
_ORDER = (
    "visevent", "coesot", "fe108", "gtot", "vtuav", "vot_rgbd", "depthtrack", "rgbt210", "rgbt234", "lasher", "folders",
)  # fmt: skip


def check_layout(name: str) -> None:
    """Raises RGBXError unless the name is ``"auto"`` or one of :data:`LAYOUTS`."""
    if name != "auto" and name not in BY_NAME:
        raise RGBXError(f"layout is {name!r}; expected auto or one of {', '.join(LAYOUTS)}")


def detect_layout(folder: Path) -> str | None:
    """Return the name of the layout that a sequence's folder has, or None."""
    return next((name for name in _ORDER if BY_NAME[name].recognizes(folder)), None)
