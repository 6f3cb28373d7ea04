"""``python -m evidence run`` runs what has no record yet; ``python -m evidence report`` writes the page."""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from evidence.plan import ALL, PARTS, SHORT
from evidence.trials import RESULTS, Store, Trial, here

GROUPS = {"short": SHORT, "all": ALL}


def kind_of(one: Trial) -> tuple[object, ...]:
    """Trials of one kind take about as long as each other."""
    sizes = [one.get(name) for name in ("steps", "width", "model", "batch", "tuning")]
    return one.bench, one.task == "row", one.method, *sizes


class Clock:
    """Seconds that trials took, by their kind, and what is left."""

    def __init__(self) -> None:
        self.taken: dict[tuple[object, ...], list[float]] = defaultdict(list)

    def add(self, one: Trial, seconds: float) -> None:
        self.taken[kind_of(one)].append(seconds)

    def left(self, trials: Sequence[Trial]) -> float:
        """In seconds; a kind that was not seen takes as long as the mean of those of its bench."""
        every: dict[str, list[float]] = defaultdict(list)
        for kind, seconds in self.taken.items():
            every[str(kind[0])] += seconds[-50:]
        total = 0.0
        for one in trials:
            seen = self.taken.get(kind_of(one)) or every[one.bench]
            total += statistics.fmean(seen[-50:]) if seen else 0.0
        return total


def shown(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def run(parts: Sequence[str], results: Path, minutes: float) -> None:
    """Run the parts' trials that have no record, for as long as is allowed."""
    stores = {bench: Store(results / f"{bench}.jsonl") for bench in {t.bench for p in parts for t in PARTS[p]}}
    clock = Clock()
    for store in stores.values():
        for record in store:
            clock.add(record.trial, record.facts["seconds"])
    trials = [one for part in parts for one in PARTS[part]]
    left = [one for bench, store in stores.items() for one in store.missing(t for t in trials if t.bench == bench)]
    wanted = {one.key for one in left}
    left = [one for one in {t.key: t for t in trials}.values() if one.key in wanted]
    place, start = here(), time.perf_counter()
    print(
        f"{len(trials) - len(left)} of {len(trials)} trials have a record; about {shown(clock.left(left))} left",
        flush=True,
    )
    told = start
    for number, one in enumerate(left):
        if time.perf_counter() - start > 60.0 * minutes:
            print(f"stopped after {minutes:g} minutes with {len(left) - number} trials left: run again to go on")
            return
        record = importlib.import_module(f"evidence.{one.bench}").run(one)
        stores[one.bench].add(record, place)
        clock.add(one, record.facts["seconds"])
        if time.perf_counter() - told > 20.0 or record.facts["seconds"] > 20.0:
            told = time.perf_counter()
            rest = left[number + 1 :]
            line = f"{number + 1}/{len(left)} {one.bench} {one.task} {one.method} {dict(one.options)} seed {one.seed}: "
            print(line + f"{record.readouts['final']}; about {shown(clock.left(rest))} left", flush=True)
    print("every trial has a record", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the trials that have no record")
    names = [*PARTS, "short", "all"]
    running.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; by default short")
    running.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after so long")
    running.add_argument("--threads", type=int, default=None, help="of torch; by default torch's own choice")
    reporting = commands.add_parser("report", help="write the page and its figures from the records")
    for command in (running, reporting):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    given = parser.parse_args(arguments)
    if given.command == "run":
        unknown = sorted(set(given.parts) - set(names))
        if unknown:
            parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(names)}")
        if given.threads:
            torch.set_num_threads(given.threads)
        listed = [part for name in given.parts or ["short"] for part in GROUPS.get(name, [name])]
        run(listed, given.results, given.minutes)
        return 0
    from evidence.report import write

    write(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
