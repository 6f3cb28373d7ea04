"""What feeds training and what training takes: samples a second of the loader, of the step, of both; and the published
way of doing all of it, in the same turns.

Pairs come from JPEG files of 640 x 480, RGB and X, as data sets have them; the crops are those of the network. The
published way: crops on the host, float32, eager, the published update (clone, step, rank by a sort, blend), a scalar
read and the allocator's cache emptied in every step. What takes the turns is in :mod:`benchmarks.loader_contest`, which
needs all that the tracker needs; the tables need it not.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import clock, spread
from benchmarks.turns import BEGUN, SECONDS, Row, why_absent
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
    """(key, name); compiled only on a GPU, where it is worth the minute that it takes."""
    return [*LOADER, *STEP, *BOTH, *(COMPILED if device == "cuda" else ())]


def empty_rows(device: str) -> list[Row]:
    return [{"key": key, "contestant": name} for key, name in rows(device)]


def loader_section(device: torch.device) -> dict[str, Any]:
    """Turns, as in :mod:`benchmarks.turns`: each contestant takes some steps in every round."""
    from benchmarks.loader_contest import Contest

    found = {row["key"]: row for row in empty_rows(device.type)}
    samples = STEPS[device.type] * BATCHES[device.type]
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(device, Path(folder))
        entered: dict[str, Callable[[], object]] = {}
        for key, turn in contest.turns().items():
            if time.monotonic() - BEGUN > SECONDS:
                found[key]["why"] = f"the {SECONDS:.0f} s for benchmarks were over"
                continue
            try:
                turn()  # starts loader processes, allocates, compiles
                entered[key] = turn
            except Exception as error:  # one contestant's failure is a line in the table
                found[key]["why"] = why_absent(error)
        seconds: dict[str, list[float]] = {key: [] for key in entered}
        for _ in range(LOADER_ROUNDS):
            for key, turn in entered.items():
                start = clock()
                turn()
                seconds[key].append(clock() - start)
    for key, taken in seconds.items():
        published = seconds.get("published")
        found[key] |= {
            "samples/s": samples / statistics.median(taken),
            "spread": spread(taken),
            "x published": statistics.median(published) / statistics.median(taken) if published else None,
            "all s": taken,
        }
    kind = "bfloat16 autocast" if device.type == "cuda" else "float32"
    note = (
        f"two streams of {NETWORKS[device.type]}, batches of {BATCHES[device.type]}, {WORKERS} loader "
        f"process{'es' if WORKERS > 1 else ''}, JPEG files of {SIZE[0]} x {SIZE[1]}; ours in {kind} with SRFT, prior "
        "and rank damping, the published way in float32"
    )
    return {"rows": list(found.values()), "rounds": LOADER_ROUNDS, "note": note, "network": NETWORKS[device.type]}
