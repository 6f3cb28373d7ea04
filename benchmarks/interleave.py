"""Lets all contestants of a table take turns in one process, so that a noisy machine affects all of them equally."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch

from benchmarks.contestants import Contestant, Running, Unavailable
from benchmarks.timing import CopyBandwidth, Stopwatch, spread
from benchmarks.workload import ROUNDS, Workload

SLOW_ROUNDS = 2
HEAD_START = 1.5  # of the host's own time: a launch that comes late would be timed as the device's work
# No further contestant starts once a process is this old, because finished rows are worth more than one more row.
SECONDS = float(os.environ.get("SRFT_BENCH_SECONDS", "inf"))
BEGUN = time.monotonic()

FAILED = "failed"
OURS = ("srft", "penalty_operator", "penalty_triton")

Row = dict[str, Any]


def why_absent(error: Exception) -> str:
    """Return what stands below the table for a row without figures."""
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{FAILED}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def failures(section: dict[str, Any]) -> list[str]:
    """Return the rows of our own that broke. The figures of the others are kept, and the run fails."""
    return [
        f"{row['contestant']} {row['why']}"
        for row in section["rows"]
        if row.get("why", "").startswith(FAILED) and row["key"].startswith(OURS)
    ]


def after_first_steps(contestant: Contestant, work: Workload) -> Running:
    """Make a contestant and take its first steps, which allocate, compile and gather statistics."""
    made = contestant.make(work)
    for _ in range(1 if contestant.slow else 2):
        made.step()
    return made


def enter(contestants: list[Contestant], work: Workload) -> tuple[dict[str, Running], dict[str, str]]:
    """Return the contestants that run here, after their first steps, and why the others do not."""
    entered: dict[str, Running] = {}
    absent: dict[str, str] = {}
    for c in contestants:
        if c.same_as is not None:
            continue
        if time.monotonic() - BEGUN > SECONDS:
            absent[c.key] = f"the {SECONDS:.0f} s for benchmarks were over"
            continue
        try:
            entered[c.key] = after_first_steps(c, work)
        except Exception as error:  # one contestant's failure is a line in the table, and no reason to lose the others
            absent[c.key] = why_absent(error)
        if c.key in absent and work.device.type == "cuda":
            torch.cuda.empty_cache()
    return entered, absent


def take_turns(contestants: list[Contestant], work: Workload, copy: CopyBandwidth) -> dict[str, Any]:
    """Return medians over the rounds, each with all contestants, and the copy's bandwidth in the same rounds."""
    entered, absent = enter(contestants, work)
    present = [c for c in contestants if (c.same_as or c.key) in entered]
    watch = Stopwatch(work.device)
    host = {key: statistics.median(watch.host(e.step) for _ in range(3)) for key, e in entered.items()}
    seconds: dict[str, list[float]] = {c.key: [] for c in present}
    copies: list[float] = []
    for turn in range(ROUNDS):
        copies.append(watch(copy))
        for c in present:
            if not (c.slow and turn >= SLOW_ROUNDS):
                key = c.same_as or c.key
                seconds[c.key].append(watch(entered[key].step, HEAD_START * host[key]))
    bandwidth = copy.bytes / statistics.median(copies)
    rows = []
    for c in contestants:
        if c.key not in seconds:
            rows.append({**empty_row(c), "why": absent[c.same_as or c.key]})
            continue
        key = c.same_as or c.key
        median = statistics.median(seconds[c.key])
        moved = c.traffic.bytes_per_element * work.elements
        measured: Row = {
            "ms": median * 1e3,
            "least ms": min(seconds[c.key]) * 1e3,
            "spread": spread(seconds[c.key]),
            "GB/s": moved / median / 1e9,
            "of copy": moved / median / bandwidth,
            "x baseline": median / statistics.median(seconds[c.baseline]) if seconds.get(c.baseline) else None,
            "state B/param": entered[key].state_bytes() / work.elements,
            "all ms": [s * 1e3 for s in seconds[c.key]],
        }
        if work.device.type == "cuda":  # elsewhere the host does all of it
            measured["host ms"] = host[key] * 1e3
        rows.append({**empty_row(c), **measured})
    return {
        "rows": rows,
        "parameters": work.elements,
        "tensors": len(work.weights),
        "copy GB/s": bandwidth / 1e9,
        "copy spread": spread(copies),
        "rounds": ROUNDS,
    }


def empty_row(contestant: Contestant) -> Row:
    """Return what is known of a contestant before it has run."""
    return {
        "key": contestant.key,
        "contestant": contestant.name,
        "formula": contestant.traffic.formula,
        "B/param moved": contestant.traffic.bytes_per_element,
        "baseline": contestant.baseline,
    }
