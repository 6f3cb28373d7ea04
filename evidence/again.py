"""A few recorded trials run again: are the records what this code gives?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from evidence.plan import PARTS
from evidence.running import Workers, records_of
from evidence.trials import Record, Store

SAME = 0.01
"""Points within which two measures are the same: they are recorded with two digits."""


def drawn(parts: Sequence[str], results: Path, count: int, seed: int) -> list[Record]:
    """``count`` records at random, of as many parts as there are in turn, so that long parts do not fill the draw."""
    planned = {one.key: one.bench for part in parts for one in PARTS[part]}
    stores = {bench: Store(results / f"{bench}.jsonl") for bench in set(planned.values())}
    by_part = [
        [stores[one.bench].records[one.key] for one in PARTS[part] if one.key in stores[one.bench].records]
        for part in parts
    ]
    chooser = random.Random(seed)
    for records in by_part:
        chooser.shuffle(records)
    chosen: dict[str, Record] = {}
    for turn in range(max(map(len, by_part), default=0)):
        for records in by_part:
            if turn < len(records) and len(chosen) < count:
                chosen.setdefault(records[turn].trial.key, records[turn])
    return sorted(chosen.values(), key=lambda record: record.trial.bench)


def check(parts: Sequence[str], results: Path, count: int, seed: int, workers: Workers) -> bool:
    """Run recorded trials again, print both figures of each, and return whether all are the same.

    Other processors, numbers of threads and versions of torch add up in another order, which training amplifies: there
    a trial differs by a few points in either direction, and only means over seeds can be compared.
    """
    recorded = {record.trial.key: record for record in drawn(parts, results, count, seed)}
    print(f"{len(recorded)} recorded trials are run again", flush=True)
    differences: list[float] = []
    for found in records_of([record.trial for record in recorded.values()], workers):
        one, before = found.trial, recorded[found.trial.key].readouts["final"]
        after = found.readouts["final"]
        differences.append(max(abs(a - b) for a, b in zip(after, before, strict=True)))
        print(f"{one}: recorded {before}, now {after}", flush=True)
    same = sum(difference <= SAME for difference in differences)
    largest = max(differences, default=0.0)
    print(f"{same} of {len(differences)} are the same; the largest difference is {largest:.2f} points")
    return same == len(differences)
