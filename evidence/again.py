"""A few recorded trials run again: are the records what this code gives?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence.plan import PARTS
from evidence.running import Workers, records_of
from evidence.trials import Record, Store, here

SAME = 0.01
"""Points within which two measures are the same: they are recorded with two digits."""


class Recorded(NamedTuple):
    """A record and where it was made."""

    record: Record
    place: dict[str, Any]

    def elsewhere(self, now: dict[str, Any]) -> str:
        """What of the record's place is known to be another than now, in brackets."""
        names = ("machine", "instructions", "threads", "torch")
        other = [
            f"{name} {self.place.get(name, 'not recorded')}" for name in names if self.place.get(name) != now[name]
        ]
        return f" ({', '.join(other)})" if other else ""


def drawn(parts: Sequence[str], results: Path, count: int, seed: int) -> list[Recorded]:
    """``count`` records at random, of as many parts as there are in turn, so that long parts do not fill the draw."""
    stores = {bench: Store(results / f"{bench}.jsonl") for bench in {PARTS[part][0].bench for part in parts}}
    chooser = random.Random(seed)
    by_part = []
    for part in parts:
        records = stores[PARTS[part][0].bench].records
        by_part.append([records[one.key] for one in PARTS[part] if one.key in records])
        chooser.shuffle(by_part[-1])
    in_turn = [record for turn in itertools.zip_longest(*by_part) for record in turn if record is not None]
    chosen = list({record.trial.key: record for record in in_turn}.values())[:count]
    chosen.sort(key=lambda record: record.trial.bench)
    return [Recorded(record, stores[record.trial.bench].places[record.place]) for record in chosen]


def check(parts: Sequence[str], results: Path, count: int, seed: int, workers: Workers) -> bool:
    """Run recorded trials again, print both figures of each, and return whether all are the same.

    Other instruction sets, numbers of threads and versions of torch add up in another order, which training amplifies:
    there a trial differs by a few points in either direction, and only means over seeds can be compared. Where there is
    no record nothing is the same.
    """
    recorded = {one.record.trial.key: one for one in drawn(parts, results, count, seed)}
    if not recorded:
        print(f"{results} has no record of {', '.join(parts)} to compare with; run them first")
        return False
    print(f"{len(recorded)} recorded trials are run again", flush=True)
    now, differences = here(*workers), []
    for found in records_of([one.record.trial for one in recorded.values()], workers):
        was, after = recorded[found.trial.key], found.readouts["final"]
        before = was.record.readouts["final"]
        differences.append(max(abs(a - b) for a, b in zip(after, before, strict=True)))
        print(f"{found.trial}: recorded {before}{was.elsewhere(now)}, now {after}", flush=True)
    same = sum(difference <= SAME for difference in differences)
    largest = max(differences, default=0.0)
    print(f"{same} of {len(differences)} are the same; the largest difference is {largest:.2f} points")
    return same == len(differences)
