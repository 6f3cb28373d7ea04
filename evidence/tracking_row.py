"""Several modalities in a row for one tracker: what is left of all of them at the end?

The shipped RGB tracker, one stream, learns to track in thermal images alone, then in depth alone, then in events alone,
from few generated sequences each. All its tasks share every weight, head and all. Between tasks the anchor moves to
where the network is, and the significance of the task that it has just learned is added, on that task's few sequences.
"""

from __future__ import annotations

import functools
import time

from evidence import methods, tracking
from evidence.tracking_success import ALONE, held_out, pretrained, scores, validation_count
from evidence.trials import Record, Trial, mean_of, trial
from tracker.models.tracker import Tracker

OLD = "rgb"
"""What the network knows before them."""
ROW = ("thermal", "depth", "event")
"""The tasks in their order."""


def success(network: Tracker, modality: str, one: Trial) -> list[float]:
    """On validation and on test sequences of a modality that is seen alone, in percent."""
    task = modality if modality == OLD else modality + ALONE
    found = []
    for part, count in (("validation", validation_count(one["tests"])), ("test", one["tests"])):
        tests = held_out(task, part, count, one.seed, one["frames"])
        found.append(float(scores(network, tests.sequences, one["precision"] == "bf16").mean()))
    return found


@functools.lru_cache(maxsize=2)
def _before(tests: int, frames: int, precision: str, seed: int) -> dict[str, list[float]]:
    one = trial("tracking_row", "row", "untouched", seed, tests=tests, frames=frames, precision=precision)
    return {modality: success(pretrained()[0], modality, one) for modality in (OLD, *ROW)}


def stage_of(one: Trial, number: int) -> Trial:
    """The training of one task of the row, on sequences of its own, as a trial of the bench of tracking."""
    return Trial("tracking", ROW[number] + ALONE, one.method, one.seed + 100 * number, one.options)


def run(one: Trial) -> Record:
    """Run a trial of three modalities in a row.

    The new task's measures are the mean of each modality's right after it was learned. The old one's are the mean over
    all but the last at the end, RGB among them. With the option ``mix`` the network goes back so far after every task
    (WiSE-FT, arXiv 2109.01903).
    """
    start = time.perf_counter()
    before = _before(one["tests"], one["frames"], one["precision"], one.seed)
    network = tracking.at_first(ROW[0] + ALONE)
    first = methods.weights_of(network)
    held = one.method not in tracking.WITHOUT_PRIOR
    total = methods.added({}, tracking.rgb_prior(stage_of(one, 0)), one) if held else {}
    learned: list[list[float]] = []
    for number, modality in enumerate(ROW):
        stage = stage_of(one, number)
        was = methods.weights_of(network)
        tracking.learn(stage, network, total if held else None)
        if one.get("mix"):
            methods.go_back(network, was, one["mix"])
        learned.append(success(network, modality, one))
        if held and number < len(ROW) - 1:
            total = methods.added(total, tracking.learned_prior(network, stage), one)
    at_end = [*(success(network, modality, one) for modality in (OLD, *ROW[:-1])), learned[-1]]
    readouts = {"final": [*mean_of(learned), *mean_of(at_end[:-1])]}
    facts = {f"{name} before": values[1] for name, values in before.items()}
    facts |= {f"{name} when learned": values[1] for name, values in zip(ROW, learned, strict=True)}
    facts |= {f"{name} at the end": values[1] for name, values in zip((OLD, *ROW), at_end, strict=True)}
    facts |= {**methods.travel(first, network, None), "seconds": time.perf_counter() - start}
    measures = [*mean_of([before[name] for name in ROW]), *mean_of([before[name] for name in (OLD, *ROW[:-1])])]
    return Record(one, measures, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})
