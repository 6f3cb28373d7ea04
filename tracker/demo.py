"""The demonstrations: a pre-trained RGB tracker learns from few sequences of another camera, with AdamW and with SRFT.

In the first, the RGB tracker itself learns to track in depth images with no RGB beside them. Every weight has to serve
the new images and the old ones, so that what a tracker has *forgotten* is what the same weights have lost on day-light
RGB sequences.

In the second, an RGB-thermal tracker of two streams is made of it. What is forgotten is measured on the RGB stream,
taken out and run alone, because this stream *is* the pre-trained tracker before the first step. The two-stream tracker
with nothing in X mostly shows what it costs to become a two-stream tracker, so a row of the table gives the figure
before fine-tuning.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.data.x_alone import XAlone
from tracker.errors import RGBXError
from tracker.evaluation import LasHeROptions, Metrics, evaluate
from tracker.evaluation.plots import plot_curves
from tracker.files import write_text
from tracker.inference import InferenceSettings, track_dataset, write_overlay
from tracker.models.checkpoints import find_weights, load_network, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.tracker import SingleStreamTracker, Tracker
from tracker.tables import aligned_table
from tracker.train.build import run_meta
from tracker.train.configured_data import generated_sequences, pair_settings
from tracker.train.finetune import fine_tuner
from tracker.train.log import progress
from tracker.train.prior import estimate_rgb_prior, prior_for, save_prior
from tracker.train.run_folder import clear

PRETRAINED, UNTUNED, ADAMW, SRFT = "RGB tracker", "two streams, not tuned", "AdamW", "SRFT(AdamW)"
RGB, BLANK, STREAM = "RGB", "RGB, X blank", "RGB, its stream alone"
TEST_SEED = 1_000
"""Of the test sequences; learning rates and strength were chosen on others (see docs/demo.md)."""

TESTS, LENGTH = 16, 30
"""Test sequences of each task, and frames of each."""


@dataclass(frozen=True)
class Demonstration:
    """What is learned.

    Args:
        config: name of the shipped configuration, which says what X is.
        new: what the new task is called.
        alone: whether the RGB tracker itself learns X with no RGB beside it, or two streams learn both.
        rates: the learning rate at which each optimizer was best on validation sequences.
    """

    config: str
    new: str
    alone: bool
    rates: Mapping[str, float]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The new task, then those on RGB, of which the last one tells what is kept."""
        return (self.new, RGB) if self.alone else (self.new, BLANK, STREAM)

    @property
    def untuned(self) -> tuple[str, ...]:
        """The trackers that are compared without training."""
        return (PRETRAINED,) if self.alone else (PRETRAINED, UNTUNED)

    def seen(self, sequences: Sequence[Any]) -> list[Any]:
        """New sequences as the tracker is given them."""
        return [XAlone(sequence) for sequence in sequences] if self.alone else list(sequences)

    def at_first(self, rgb: Tracker) -> Tracker:
        """The network before training."""
        return copy.deepcopy(rgb) if self.alone else initialize_two_stream(rgb)


DEMONSTRATIONS = {
    "depth": Demonstration("demo", "depth", True, {ADAMW: 3e-4, SRFT: 3e-3}),
    "thermal": Demonstration("demo_rgbt", "RGB-thermal", False, {ADAMW: 1e-4, SRFT: 1e-3}),
}

QUICK = (
    "data.sequences=2",
    "data.length=20",
    "train.epochs=1",
    "train.samples_per_epoch=8",
    "train.batch_size=4",
    "train.warmup_steps=0",
    "train.log_every=1",
    "prior.samples=8",
    "prior.batch_size=4",
)


@dataclass
class Outcome:
    """One tracker: its metrics on each task, one per seed, and the seconds that its training took."""

    name: str
    tasks: tuple[str, ...]
    metrics: dict[str, list[Metrics]] = field(init=False)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = {task: [] for task in self.tasks}

    def score(self, task: str, key: str) -> list[float]:
        return [100.0 * metrics.scores[key] for metrics in self.metrics[task]]


class Stages:
    """Announce stage k of n on stderr, with the time since the start."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.perf_counter()

    def begin(self, what: str) -> None:
        self.done += 1
        click.secho(f"[{self.done}/{self.total}, {self.elapsed:.0f} s] {what}", bold=True, err=True)
        sys.stderr.flush()

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start


def run_demo(
    out: Path,
    seeds: Iterable[int] = (0,),
    quick: bool = False,
    overrides: Sequence[str] = (),
    weights: Path = Path("tiny_rgb"),
    task: str = "depth",
) -> str:
    """Run the whole comparison and write it to ``out``; returns the table as text. ``task`` names a demonstration.

    ``out`` receives ``table.md``, ``table.json``, ``success_*.png``, ``precision_*.png``, ``overlay.gif``,
    ``rgb.significance.safetensors`` and per seed ``adamw.safetensors`` and ``srft.safetensors``.

    Raises:
        RGBXError: the weights are missing or unusable, ``out`` cannot be written, or an override would have no effect.
    """
    if any(override.partition("=")[0].strip() == "train.lr" for override in overrides):
        raise RGBXError("train.lr has no effect here: each optimizer has a learning rate of its own; use rgbx train")
    seeds, demonstration = list(seeds), DEMONSTRATIONS[task]
    config = load_config(
        RunConfig, demonstration.config, [*(QUICK if quick else ()), f"output={json.dumps(str(out))}", *overrides]
    )
    count, length = (2, 8) if quick else (TESTS, LENGTH)
    stages = Stages(4 + 3 * len(seeds) + 1)

    stages.begin("load the RGB tracker that `rgbx pretrain` made")
    rgb, _, meta = load_network(find_weights(weights))
    inference = InferenceSettings.from_meta(meta)

    stages.begin("estimate what matters to it: prior significance on RGB pairs")
    prior = estimate_rgb_prior(rgb, old_task(config))
    save_prior(prior, out / "rgb.significance.safetensors")

    stages.begin(f"generate {count} {demonstration.new} and {count} RGB test sequences of {length} frames")
    new = held_out(config.data.generated_modality, count, length)
    tests = {demonstration.new: demonstration.seen(new), RGB: held_out("rgb", count, length)}
    for sequence in progress([s for task in tests.values() for s in task], title="render", unit="sequence"):
        for index in range(sequence.length):
            sequence.frame(index)

    stages.begin("run the trackers that are not trained")
    outcomes = {name: Outcome(name, demonstration.tasks) for name in (*demonstration.untuned, ADAMW, SRFT)}
    judge(outcomes[PRETRAINED], rgb, tests, inference)
    if UNTUNED in outcomes:
        judge(outcomes[UNTUNED], demonstration.at_first(rgb), tests, inference)
    tracks: dict[str, Any] = {}

    for seed in seeds:
        of = "" if len(seeds) == 1 else f", seed {seed}"
        run = config.model_copy(
            update={
                "data": config.data.model_copy(update={"seed": seed}),
                "train": config.train.model_copy(update={"seed": seed}),
            }
        )
        few = demonstration.seen(generated_sequences(run.data))
        trained: dict[str, Tracker] = {}
        for name, stem in ((ADAMW, "adamw"), (SRFT, "srft")):
            stages.begin(f"fine-tune with {name} on {len(few)} {demonstration.new} sequences{of}")
            network: Tracker = demonstration.at_first(rgb)
            chosen = run.model_copy(
                update={
                    "optimizer": run.optimizer.model_copy(update={"name": stem}),
                    "train": run.train.model_copy(update={"lr": demonstration.rates[name]}),
                }
            )
            pairs = PairDataset(few, pair_settings(run.pairs, network.config), run.train.samples_per_epoch, seed)
            folder = out / f"seed{seed}" / stem
            clear(folder)  # an earlier demonstration's
            trainer = fine_tuner(
                chosen.model_copy(update={"output": folder}),
                network,
                prior_for(network, prior) if name == SRFT else None,
                pairs,
                name,
                invocation=f"rgbx demo --first-seed {seed}",
            )
            start = time.perf_counter()
            trainer.run()
            outcomes[name].seconds.append(time.perf_counter() - start)
            save_network(
                out / f"seed{seed}" / f"{stem}.safetensors",
                network,
                network.config,
                run_meta(chosen, trainer),
            )
            trained[name] = network
        stages.begin(f"run both on the test sequences{of}")
        for name, tuned in trained.items():
            found = judge(outcomes[name], tuned, tests, inference)
            if seed == seeds[0]:
                tracks[name] = found

    stages.begin("draw plots, table and overlay")
    rows = list(outcomes.values())
    kept = demonstration.tasks[-1]
    for one, stem, drawn in ((demonstration.new, "new", rows), (kept, "rgb", [outcomes[ADAMW], outcomes[SRFT]])):
        for curve in ("success", "precision"):
            metrics = [outcome.metrics[one][0] for outcome in drawn]
            if one == kept:
                metrics.append(outcomes[PRETRAINED].metrics[demonstration.tasks[1]][0])
            plot_curves(metrics, curve, out / f"{curve}_{stem}.png", title=f"{one}: {curve}")
    shown = most_different(*(outcomes[name].metrics[demonstration.new][0] for name in (ADAMW, SRFT)))
    sequence = next(s for s in new if s.name == shown)
    write_overlay(out / "overlay.gif", sequence, {name: tracks[name][shown] for name in (ADAMW, SRFT)}, panel_width=240)
    page = markdown(demonstration, rows, config, len(seeds), count, length, shown)
    write_text(out / "table.md", page)
    write_text(out / "table.json", json.dumps(summary(rows, config, seeds), indent=1))
    return f"{text(demonstration, rows)}\n\n{stages.elapsed:.0f} s; plots, overlay, table and checkpoints are in {out}"


def old_task(config: RunConfig) -> RunConfig:
    """The configuration with the data of pre-training in place of the new task's."""
    old = config.data.model_copy(update={"modality": "rgb", "sequences": max(2, config.prior.samples // 16), "seed": 0})
    return config.model_copy(update={"data": old})


def held_out(modality: str, count: int, length: int, seed: int = TEST_SEED) -> list[Any]:
    """Sequences from photographs that neither pre-training nor fine-tuning sees."""
    return list(synthetic_dataset(SyntheticConfig(modality=modality, length=length, seed=seed, split="test"), count))


def rgb_stream(network: Tracker) -> Tracker:
    """The RGB stream of a two-stream tracker, with its positions and head, as a single-stream tracker."""
    single = SingleStreamTracker(network.config.replace(kind="single_stream"))
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(("x.", "cross."))}
    single.load_state_dict(own)
    return single.eval()


def judge(
    outcome: Outcome, network: Tracker, tests: dict[str, list[Any]], settings: InferenceSettings
) -> dict[str, Any]:
    """Run a network on the tasks and add its metrics to ``outcome``; returns the tracks on the new one."""
    found: dict[str, Any] = {}
    for task in outcome.tasks:
        if task == STREAM and outcome.name in (PRETRAINED, UNTUNED):
            continue  # the stream is the RGB tracker itself
        sequences = tests[task] if task == outcome.tasks[0] else tests[RGB]
        chosen = rgb_stream(network) if task == STREAM else network
        tracks = track_dataset(chosen, sequences, None, settings, batch=len(sequences), label=f"{outcome.name}: {task}")
        # Frames without the target are left out: LasHeR's own rule counts them as precise and as unsuccessful.
        options = LasHeROptions(absent="excluded")
        outcome.metrics[task].append(evaluate(sequences, tracks, "lasher", tracker=outcome.name, options=options))
        found = found or tracks
    return found


def most_different(first: Metrics, second: Metrics) -> str:
    """Name of the sequence on which two trackers' success differs most."""
    other = {scores.name: scores.scores["SR"] for scores in second.sequences}
    return max(first.sequences, key=lambda scores: abs(scores.scores["SR"] - other[scores.name])).name


def columns_of(demonstration: Demonstration) -> list[str]:
    """The head of the table."""
    old = ["RGB success"] if demonstration.alone else ["RGB, X blank", "RGB, its stream"]
    return ["tracker", f"{demonstration.new} success", f"{demonstration.new} precision", *old, "forgotten", "seconds"]


def cells(demonstration: Demonstration, outcome: Outcome, reference: Outcome) -> list[str]:
    """The row of one tracker: percent, mean and standard deviation over seeds."""
    before = statistics.fmean(reference.score(demonstration.tasks[1], "SR"))
    kept = outcome.score(demonstration.tasks[-1], "SR")
    trained = outcome.name not in demonstration.untuned
    return [
        outcome.name,
        spread(outcome.score(demonstration.new, "SR")),
        spread(outcome.score(demonstration.new, "PR")),
        *([] if demonstration.alone else [spread(outcome.score(BLANK, "SR"))]),
        spread(kept or [before]),
        spread([before - value for value in kept] if trained else []),
        spread(outcome.seconds),
    ]


def spread(values: Sequence[float]) -> str:
    """Return the mean, and with several values the standard deviation, as text with one decimal."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def text(demonstration: Demonstration, rows: Sequence[Outcome]) -> str:
    """Return the table as text for a terminal."""
    return aligned_table(columns_of(demonstration), [cells(demonstration, row, rows[0]) for row in rows])


OLD_COLUMNS = {
    True: """The tracker sees the new sequences without their RGB. "RGB success" is that of the same weights on
day-light RGB sequences, and "forgotten" what they have lost there.""",
    False: """The RGB columns are success on day-light RGB sequences: of the tracker with nothing in X, and of its RGB
stream taken out and run alone. "Forgotten" is what that stream, which is the pre-trained tracker before the first step,
has lost.""",
}
"""What the columns on the old task mean, by :attr:`Demonstration.alone`."""


def markdown(
    demonstration: Demonstration,
    rows: Sequence[Outcome],
    config: RunConfig,
    seeds: int,
    count: int,
    length: int,
    shown: str,
) -> str:
    """Return the page that is written to ``table.md``."""
    columns, rates, new = columns_of(demonstration), demonstration.rates, demonstration.new
    table = [columns, ["---", *("---:" for _ in columns[1:])], *(cells(demonstration, row, rows[0]) for row in rows)]
    train, optimizer = config.train, config.optimizer
    damping = f"damping {optimizer.damping}" if optimizer.damping != "none" else "no damping"
    body = "\n".join("| " + " | ".join(line) + " |" for line in table)
    return f"""# RGB tracker to {new}: AdamW and SRFT

{body}

Success (mean of the success curve) and precision (center error of at most 20 pixels) in percent, LasHeR's formulas,
frames without the target left out; {count} test sequences of {length} frames for each task, from photographs that no
training used{f"; mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""}.
{OLD_COLUMNS[demonstration.alone]} "Seconds" is the time of fine-tuning.

Both fine-tuned trackers start from the same weights and see the same {train.total_steps} batches of
{train.batch_size} pairs from {config.data.sequences} sequences, each at the learning rate that was best for it on
validation sequences: AdamW {rates[ADAMW]:g}, SRFT {rates[SRFT]:g} ({train.schedule}).
SRFT: strength {optimizer.strength:g}, kappa {optimizer.kappa}, mode {optimizer.mode}, {damping}.

![Success on {new}](success_new.png)
![Precision on {new}](precision_new.png)
![Success on RGB](success_rgb.png)
![Precision on RGB](precision_rgb.png)

`overlay.gif` shows {shown}, the test sequence on which the success of the two fine-tuned trackers differs most.
"""


def summary(rows: Sequence[Outcome], config: RunConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures as plain numbers, per seed."""
    return {
        "seeds": list(seeds),
        "config": config.model_dump(mode="json"),
        "trackers": {
            row.name: {
                "seconds": row.seconds,
                **{task: {key: row.score(task, key) for key in ("SR", "PR", "NPR")} for task in row.tasks},
            }
            for row in rows
        },
    }
