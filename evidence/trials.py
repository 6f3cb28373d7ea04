"""What is run and what comes of it: one trial is one line of a JSON-lines file, which later runs append to and skip.

A file holds two kinds of lines. A *place* says where runs were made: machine, threads, versions, commit and command. It
is written once and named by the records that follow. A *record* is a trial and its measurements.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import srft_kernels

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
MEASURES = ("target_validation", "target", "kept_validation", "kept")
"""Of a readout, in this order: success on the new task and on the old one, each on validation and on test data."""

Value = str | int | float | None

UNSAID: dict[str, dict[str, Value]] = {"tracking": {"tests": 16, "frames": 30, "precision": "bf16"}}
"""Options that the first records of a bench do not name, because there was nothing to choose from."""


@dataclass(frozen=True)
class Trial:
    """One experiment: a method with its options on a task of a bench, with a seed."""

    bench: str
    task: str
    method: str
    seed: int
    options: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        return f"{self.bench} {self.task} {self.method} {dict(self.options)} seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """The options, with those that were not named."""
        return {**UNSAID.get(self.bench, {}), **dict(self.options)}

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.settings.get(name, default)

    @property
    def key(self) -> str:
        """Equal for equal trials, also after a way through JSON."""
        return json.dumps([self.bench, self.task, self.method, self.seed, sorted(self.options)])


def trial(bench: str, task: str, method: str, seed: int, **options: Value) -> Trial:
    return Trial(bench, task, method, seed, tuple(sorted(options.items())))


@dataclass(frozen=True)
class Record:
    """A trial and what was measured.

    Args:
        before: The measures of :data:`MEASURES` before training, in percent.
        readouts: The same afterwards, by the name of the weights that were judged: ``"final"``, ``"average"`` (an
            exponential average over the run), ``"mix0.5"`` (halfway from the old weights to the final ones),
            ``"at0.25"`` (after a quarter of the steps).
        facts: Whatever else was measured: losses, distances, seconds.
        place: Key of the place where it ran.
        scores: Percent of every test example, in an order that trials of one seed and one number of examples share, by
            what was judged; for pairs by example.
    """

    trial: Trial
    before: list[float]
    readouts: dict[str, list[float]]
    facts: dict[str, float]
    place: str = ""
    scores: dict[str, list[float]] = field(default_factory=dict)

    def as_line(self) -> str:
        made = {
            "bench": self.trial.bench,
            "task": self.trial.task,
            "method": self.trial.method,
            "seed": self.trial.seed,
            "options": dict(self.trial.options),
            "before": self.before,
            "readouts": self.readouts,
            "facts": self.facts,
            "place": self.place,
            **({"scores": self.scores} if self.scores else {}),
        }
        return json.dumps(made, separators=(",", ":"))


def mean_of(measures: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each column, with as many digits as records have."""
    return [round(sum(column) / len(column), 2) for column in zip(*measures, strict=True)]


def record_of(line: Mapping[str, Any]) -> Record:
    named = trial(line["bench"], line["task"], line["method"], line["seed"], **line["options"])
    return Record(named, line["before"], line["readouts"], line["facts"], line["place"], line.get("scores", {}))


@dataclass
class Store:
    """The records of a bench, in a file that is only ever appended to."""

    path: Path
    records: dict[str, Record] = field(default_factory=dict)
    places: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        text = self.path.read_text()
        for number, line in enumerate(text.splitlines(), 1):
            try:
                read = json.loads(line)
            except json.JSONDecodeError:
                if not text.endswith("\n") and number == len(text.splitlines()):
                    break  # A run was stopped while it wrote: that trial is run again.
                raise ValueError(
                    f"{self.path}, line {number} is not JSON: remove the line, its trial will be run again"
                ) from None
            if "machine" in read:
                self.places[read["place"]] = read
            else:
                record = record_of(read)
                self.records[record.trial.key] = record
        if text and not text.endswith("\n"):
            self.path.write_text(text[: text.rfind("\n") + 1])

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """The trials that have no record, each once and in their order."""
        return [one for key, one in {t.key: t for t in trials}.items() if key not in self.records]

    def add(self, record: Record, place: Mapping[str, Any]) -> None:
        lines = []
        if place["place"] not in self.places:
            self.places[place["place"]] = dict(place)
            lines.append(json.dumps(place, separators=(",", ":")))
        made = Record(record.trial, record.before, record.readouts, record.facts, place["place"], record.scores)
        self.records[made.trial.key] = made
        lines.append(made.as_line())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("".join(line + "\n" for line in lines))


def here(jobs: int, threads: int) -> dict[str, Any]:
    """Where this process runs, for a place's line: ``jobs`` trials at once with so many threads each."""
    made: dict[str, Any] = {
        "machine": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "jobs": jobs,
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "srft_kernels": srft_kernels.__version__,
        "commit": _commit(),
        "command": command_of(sys.argv[1:]),
    }
    key = hashlib.sha1(json.dumps(made, sort_keys=True).encode()).hexdigest()[:8]
    return {"place": key, **made}


def command_of(arguments: Sequence[str]) -> str:
    """The command as a record keeps it: without the folder of the results, which is a path on one machine."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results")
    _, others = parser.parse_known_args(list(arguments))
    return " ".join(["python -m evidence", *others])


def processor() -> str:
    """What the machine's processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
