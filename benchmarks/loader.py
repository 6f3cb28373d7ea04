"""Samples a second of the loader, of the training step and of both, beside the published way of doing all of it.

All take turns in one process. Pairs come from JPEG files of 640 x 480, RGB and X, as data sets have them, and the crops
are those of the network. The published way has crops on the host, float32, eager mode, the published update (clone,
step, rank by a sort, blend), and reads a scalar and empties the allocator's cache in every step. What takes the turns
is in :mod:`benchmarks.loader_runs`, which needs everything that the tracker needs. The tables do not need that.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleave import BEGUN, SECONDS, why_absent
from benchmarks.loader_rows import BATCHES, LOADER_ROUNDS, NETWORKS, SIZE, STEPS, WORKERS, empty_rows
from benchmarks.timing import clock, spread


def loader_section(device: torch.device) -> dict[str, Any]:
    """Take turns as in :mod:`benchmarks.interleave`. Each contestant takes some steps in every round."""
    from benchmarks.loader_runs import Contest

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
