"""What the bench of tracking measures: success on sequences that no training saw, generated ones and real ones.

Each seed of a trial has test sequences of its own, so that a mean over seeds is one over all of them, and a paired
interval holds for other sequences too.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evidence.trials import ROOT, Trial
from tracker.data.layouts import open_sequence
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.data.x_alone import XAlone
from tracker.demo import rgb_stream
from tracker.evaluation import LasHeROptions, evaluate
from tracker.inference import InferenceSettings, track_dataset
from tracker.models.checkpoints import find_weights, load_network
from tracker.models.tracker import Tracker
from tracker.tuning.base import TunedTracker

VALIDATION_SEED, TEST_SEED = 77, 1000
BATCH = 32
"""Sequences that are tracked together."""
REAL = {"thermal": "tno_nato_camp", "event": "eventsot_ball1"}
"""A real sequence of a modality, in the folder ``real`` of the shared data."""


ALONE = "_alone"
"""Ends the name of a task in which one stream, the RGB tracker itself, learns to track in X with no RGB beside it."""


def seen_by(task: str, sequences: ListLike[Any]) -> ListLike[Any]:
    """The sequences of a task's modality as the task's network is given them."""
    return [XAlone(sequence) for sequence in sequences] if task.endswith(ALONE) else sequences


class HeldOut(NamedTuple):
    """Sequences, and what is hard about each: ``night``, ``fog``, ``lookalike``, ``x fails``."""

    sequences: ListLike[Any]
    conditions: ListLike[frozenset[str]]


@functools.cache
def pretrained() -> tuple[Tracker, InferenceSettings]:
    """The shipped RGB tracker, and how it is run."""
    network, _, meta = load_network(find_weights(Path("tiny_rgb")))
    return network, InferenceSettings.from_meta(meta)


def validation_count(tests: int) -> int:
    """So many sequences are chosen on where ``tests`` are tested on: 8 for the first 16, and a third from then on."""
    return 8 if tests == 16 else max(2, tests // 3)


@functools.lru_cache(maxsize=8)
def held_out(modality: str, part: str, count: int, seed: int, frames: int) -> HeldOut:
    """Those of a trial's seed. All seeds share what they choose on, and up to 16 test sequences are shared too."""
    first = 0 if part == "validation" or count <= 16 else seed * count
    start = VALIDATION_SEED if part == "validation" else TEST_SEED
    config = SyntheticConfig(modality=modality.removesuffix(ALONE), length=frames, seed=start, split="test")
    sequences = synthetic_dataset(config, count, first)
    conditions = []
    for sequence in sequences:
        scene = sequence.scene
        found = {scene.condition} | ({"lookalike"} if scene.lookalikes else set())
        conditions.append(frozenset(found | ({"x fails"} if scene.x_fails else set())))
    return HeldOut(seen_by(modality, sequences), conditions)


def scores(network: Tracker | TunedTracker, sequences: ListLike[Sequence], bf16: bool) -> np.ndarray:
    """Success of each sequence in percent; frames without the target are left out."""
    device = next(network.parameters()).device
    batch = min(BATCH, len(sequences))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        tracks = track_dataset(network, sequences, None, pretrained()[1], batch=batch, progress=False)
    found = evaluate(sequences, tracks, "lasher", tracker="", options=LasHeROptions(absent="excluded"))
    return 100.0 * np.array([one.scores["SR"] for one in found.sequences])


def rgb_alone(network: Tracker | TunedTracker) -> Tracker:
    """What is left of the RGB tracker: the RGB stream, run alone.

    Of a tuned network it is that of the plain tracker that the additions merge into, and where they do not merge, the
    network that they were added to.
    """
    if isinstance(network, TunedTracker):
        plain = network.merged()
        network = network.base if plain is None else plain
    return rgb_stream(network) if network.config.kind == "two_stream" else network


class Success(NamedTuple):
    """The four measures of a readout, and what is known beside them."""

    measures: list[float]
    facts: dict[str, float]
    scores: dict[str, list[float]]
    """Of every test sequence: ``new`` and ``kept``."""


def measured(network: Tracker | TunedTracker, one: Trial, details: bool = False) -> Success:
    """Success on the new task and on the old one, each on validation and on test data, in percent.

    With ``details`` the facts hold the standard errors over test sequences, the success of those that are hard in some
    way, and success and precision on a real sequence, where there is one.
    """
    count, bf16, seed = one["tests"], one["precision"] == "bf16", one.seed
    network.eval()
    measures: list[float] = []
    facts: dict[str, float] = {}
    every: dict[str, list[float]] = {}
    for task, judged in ((one.task, network), ("rgb", rgb_alone(network))):
        for part, number in (("validation", validation_count(count)), ("test", count)):
            tests = held_out(task, part, number, seed, one["frames"])
            found = scores(judged, tests.sequences, bf16)
            measures.append(round(float(found.mean()), 2))
            name = "new" if task == one.task else "kept"
            if part == "test":
                every[name] = [round(float(value), 1) for value in found]
            if part == "test" and details:
                facts[f"{name} error"] = float(found.std(ddof=1)) / math.sqrt(count)
                if name == "new":
                    facts |= by_condition(found, tests.conditions)
    return Success(measures, facts | (on_real(network, one.task) if details else {}), every)


def by_condition(found: np.ndarray, conditions: ListLike[frozenset[str]]) -> dict[str, float]:
    """The mean success of the sequences of each condition."""
    names = sorted(frozenset[str]().union(*conditions))
    members = {name: [name in condition for condition in conditions] for name in names}
    return {name: float(found[chosen].mean()) for name, chosen in members.items()}


def real_folder(modality: str) -> Path | None:
    """The folder of the real sequence of a modality; None without one."""
    shared = Path(os.environ.get("RGBX_SHARED", ROOT.parent / "shared" / "data"))
    folder = shared / "real" / REAL.get(modality, "")
    return folder if modality in REAL and folder.is_dir() else None


def on_real(network: Tracker | TunedTracker, modality: str) -> dict[str, float]:
    """Success and precision on the real sequence of a modality, in percent; nothing without one."""
    folder = real_folder(modality)
    if folder is None:
        return {}
    sequence = open_sequence(folder, layout="auto")
    tracks = track_dataset(network, [sequence], None, pretrained()[1], batch=1, progress=False)
    found = evaluate([sequence], tracks, "lasher", tracker="", options=LasHeROptions(absent="excluded"))
    return {"real success": 100.0 * found.scores["SR"], "real precision": 100.0 * found.scores["PR"]}
