"""Who is timed feeding and training a network, and with how much: the rows of the loader's table."""

from __future__ import annotations

import os

from benchmarks.interleave import Row
from benchmarks.workload import ROUNDS

NETWORKS = {"cuda": "vit_b_256", "cpu": "tiny"}
BATCHES = {"cuda": 32, "cpu": 8}
STEPS = {"cuda": 8, "cpu": 3}
"""Of one turn."""
LOADER_ROUNDS = 3 if ROUNDS > 3 else ROUNDS  # each is of seconds
FRAMES, SIZE = 24, (640, 480)
WORKERS = min(12, max(1, (os.cpu_count() or 2) - 1))
NOTE = (
    "two streams of ViT-B at 128 and 256 pixels, batches of 32, JPEG files of 640 x 480; ours in bfloat16 autocast "
    "with SRFT, prior and rank damping"
)

LOADER = (
    ("loader_host", "loader alone, crops on the host"),
    ("loader_device", "loader alone, crops on the device"),
)
STEP = (("step", "training step alone, ours"), ("step_published", "training step alone, published"))
BOTH = (
    ("published", "loader and step, the published way"),
    ("ours_host", "loader and step, ours, crops on the host"),
    ("ours_device", "loader and step, ours, crops on the device"),
)
COMPILED = (("ours_compiled", "loader and step, ours, crops on the device, torch.compile"),)


def rows(device: str) -> list[tuple[str, str]]:
    """Return (key, name); compiled only on a GPU, where it is worth the minute that it takes."""
    return [*LOADER, *STEP, *BOTH, *(COMPILED if device == "cuda" else ())]


def empty_rows(device: str) -> list[Row]:
    return [{"key": key, "contestant": name} for key, name in rows(device)]
