"""Running trials: those that have no record, in several processes, with an estimate of the time that is left."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import torch

from evidence.plan import PARTS
from evidence.trials import RESULTS, Record, Store, Trial, here

MOST_JOBS = 8
"""More processes are not started unless they are asked for: each has a network and its data in memory."""


class Workers(NamedTuple):
    """How many trials run at once, and how many threads each has."""

    jobs: int
    threads: int

    @classmethod
    def of(cls, jobs: int | None, threads: int | None) -> Workers:
        """What is not said follows from the machine: one trial at a time on a GPU, else all cores are used."""
        cores = os.cpu_count() or 1
        if jobs is None:
            jobs = 1 if torch.cuda.is_available() else max(1, min(cores // (threads or 1), MOST_JOBS))
        return cls(jobs, threads or max(1, cores // jobs))


def kind_of(one: Trial) -> tuple[object, ...]:
    """Trials of one kind take about as long as each other."""
    sizes = [one.get(name) for name in ("steps", "width", "model", "batch", "tuning")]
    return one.bench, one.task == "row", one.method, *sizes


class Clock:
    """Seconds that trials took, by their kind, and what is left.

    Earlier runs were on other machines or on busy cores. So their times count in proportion to what this run takes for
    trials of the same kinds.
    """

    def __init__(self) -> None:
        self.earlier: dict[tuple[object, ...], list[float]] = defaultdict(list)
        self.taken, self.expected = 0.0, 0.0

    def remember(self, one: Trial, seconds: float) -> None:
        """Add a trial of an earlier run."""
        self.earlier[kind_of(one)].append(seconds)

    def add(self, one: Trial, seconds: float) -> None:
        """Add a trial of this run."""
        expected = self._usual(one)
        if expected:
            self.taken += seconds
            self.expected += expected
        else:
            self.remember(one, seconds)

    def _usual(self, one: Trial) -> float:
        """The mean of the last earlier ones of its kind; of its bench if none was of its kind; 0 if none at all was."""
        found = self.earlier.get(kind_of(one), [])[-50:]
        found = found or [s for kind, times in self.earlier.items() if kind[0] == one.bench for s in times[-50:]]
        return statistics.fmean(found) if found else 0.0

    def left(self, trials: Sequence[Trial]) -> float:
        """In seconds."""
        pace = self.taken / self.expected if self.expected else 1.0
        return pace * sum(self._usual(one) for one in trials)


def shown(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def measured(one: Trial) -> Record:
    """Run a trial of any bench."""
    found: Record = importlib.import_module(f"evidence.{one.bench}").run(one)
    return found


def records_of(trials: Sequence[Trial], workers: Workers, enough: Callable[[], bool] = bool) -> Iterator[Record]:
    """Run trials and yield their records as they come; none is started once ``enough()`` is true."""
    if workers.jobs == 1:
        torch.set_num_threads(workers.threads)
        yield from (measured(one) for one in itertools.takewhile(lambda _: not enough(), trials))
        return
    with ProcessPoolExecutor(
        workers.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(workers.threads,),
    ) as pool:
        running: set[Future[Record]] = set()
        for _, group in itertools.groupby(trials, key=lambda one: one.bench):
            for number, one in enumerate(group):
                # The first of a bench runs alone, because it makes what all share: fetched data, networks, priors.
                while len(running) >= (1 if number < 2 else workers.jobs):
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                if enough():
                    break
                running.add(pool.submit(measured, one))
        yield from (future.result() for future in wait(running).done)


def run(parts: Sequence[str], results: Path, minutes: float, workers: Workers) -> None:
    """Run the parts' trials that have no record, for as long as is allowed."""
    stores = {bench: Store(results / f"{bench}.jsonl") for bench in {t.bench for p in parts for t in PARTS[p]}}
    clock = Clock()
    for bench, store in stores.items():
        # Another folder knows no times of its own at first: those of the committed records are nearer than none.
        for record in store if len(store.records) else Store(RESULTS / f"{bench}.jsonl"):
            clock.remember(record.trial, record.facts["seconds"])
    planned = {one.key: one for part in parts for one in PARTS[part]}
    left = {key: one for key, one in planned.items() if key not in stores[one.bench].records}
    start = told = time.perf_counter()
    place = here(*workers)
    print(
        f"{len(planned) - len(left)} of {len(planned)} trials have a record; "
        f"about {shown(clock.left(list(left.values())) / workers.jobs)} left",
        flush=True,
    )
    count = len(left)
    for record in records_of(list(left.values()), workers, lambda: time.perf_counter() - start > 60.0 * minutes):
        one, seconds = record.trial, record.facts["seconds"]
        stores[one.bench].add(record, place)
        clock.add(one, seconds)
        del left[one.key]
        if time.perf_counter() - told > 20.0 or seconds > 20.0:
            told = time.perf_counter()
            line = (
                f"{count - len(left)}/{count} {one.bench} {one.task} {one.method} {dict(one.options)} seed {one.seed}: "
            )
            rest = shown(clock.left(list(left.values())) / workers.jobs)
            print(line + f"{record.readouts['final']}; about {rest} left", flush=True)
    if left:
        print(f"stopped after {minutes:g} minutes with {len(left)} trials left: run again to go on")
    else:
        print("every trial has a record", flush=True)
