"""Names of the layouts, for the command line: the layouts themselves take a second to import."""

from __future__ import annotations

LAYOUT_MODALITIES: dict[str, str | None] = {
    "lasher": "thermal",
    "rgbt234": "thermal",
    "rgbt210": "thermal",
    "gtot": "thermal",
    "vtuav": "thermal",
    "depthtrack": "depth",
    "vot_rgbd": "depth",
    "visevent": "event",
    "coesot": "event",
    "fe108": "event",
    "folders": None,
}
"""What X each layout has; None where it may be any."""
