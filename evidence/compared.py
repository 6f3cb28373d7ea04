"""What is compared with what: methods as a reader knows them, and the situations they ran in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from evidence import digits_plan, grid, tracking_plan, vision_plan
from evidence.statistics import Family, Results, balance, chosen, means, results_of
from evidence.trials import Record

ADAMW = (
    Family("AdamW", "adamw"),
    Family("AdamW, stopped early", "adamw", readout="at"),
    Family("AdamW, weights averaged", "adamw", readout="average"),
    Family("AdamW, interpolated (WiSE-FT)", "adamw", readout="mix"),
)
OTHERS = (
    Family("AdamW, merged by significance afterwards", "merged", readout="merge"),
    Family("AdamW, halfway back after each task", "adamw", {"mix": 0.5}),
    Family("linear probe", "probe"),
    Family("LP-FT", "lpft"),
    Family("RGB stream frozen", "xonly"),
    Family("streams frozen", "adamw", {"tuning": "frozen"}),
    Family("LoRA", "adamw", {"tuning": "lora"}),
    Family("adapters", "adamw", {"tuning": "adapters"}),
    Family("SDSTrack", "adamw", {"tuning": "sdstrack"}),
    Family("PATrack", "adamw", {"tuning": "patrack"}),
    Family("distilled student", "adamw", {"tuning": "distill"}),
    Family("L2-SP, in the loss", "l2sp", {"estimator": "uniform"}),
    Family("EWC, in the loss", "ewc"),
    Family("LoRA", "lora"),
    Family("LoRA, EWC in the loss (LaLoRA)", "lalora"),
    Family("LoRA held by SRFT", "lora_srft", grid.FALLING),
)
SRFT = (
    Family("SRFT", "srft"),
    Family("SRFT, global mean", "srft", {"normalize": "global"}),
    Family("SRFT, global mean, κ falls", "srft", grid.FALLING),
    Family("SRFT, κ falls, every task's P over its mean", "srft", grid.MEANS),
    Family("SRFT, every task's P over its mean", "srft", {**grid.MEANS, "kappa": "1"}),
)
"""The kinds of SRFT whose strengths are searched; the last two are for tasks in a row."""
HELD = (
    *SRFT,
    Family("SRFT, global mean, κ falls to 0.001", "srft", grid.PATH),
    Family("SRFT, one run through all strengths", "srft", grid.PATH, "at"),
    Family("EWC, in the loss, every task's P over its mean", "ewc", {"sum": "means"}),
    Family("SRFT, uniform P", "srft", {"estimator": "uniform"}),
    Family("SRFT, MAS", "srft", {"estimator": "mas"}),
    Family("SRFT, MAS on the new images", "srft", {"estimator": "mas_few"}),
    Family("SRFT, global mean, κ falls, MAS on the new images", "srft", {**grid.FALLING, "estimator": "mas_few"}),
    Family(
        "SRFT, global mean, κ falls, every direction of the features", "srft", {**grid.FALLING, "estimator": "features"}
    ),
    Family("SRFT, by the old head", "srft", {"estimator": "old_head"}),
    Family("SRFT, global mean, κ falls, by the old head", "srft", {**grid.FALLING, "estimator": "old_head"}),
    Family("EWC, in the loss, P over its mean", "srft", grid.IN_LOSS),
    Family("EWC, in the loss, by the old head", "ewc", {"estimator": "old_head"}),
    Family("LoRA, held by SRFT", "srft", grid.LORA_HELD),
    Family("SRFT, X stream without a prior", "srft", {"x": "none"}),
    Family("SRFT, X stream with a prior of its own", "srft", {"x": "own"}),
    Family("SRFT, global mean, κ falls, X stream without a prior", "srft", {**grid.FALLING, "x": "none"}),
    Family("streams frozen, SRFT", "srft", {"tuning": "frozen"}),
    Family("SDSTrack, SRFT", "srft", {"tuning": "sdstrack"}),
    Family("distilled student, SRFT", "srft", {"tuning": "distill"}),
    Family("pull in Adam's metric", "metric"),
    Family("pull in Adam's metric, κ falls", "metric", {"kappa": "cosine"}),
    Family("pull in Adam's metric, κ 1", "metric", {"kappa": "1"}),
    Family("pull in Adam's metric, κ falls, λ over the squared gradient", "metric", grid.UNIT),
    Family("pull in Adam's metric, κ 1, λ in SRFT's unit", "metric", {**grid.SAME_UNIT, "kappa": "1"}),
    Family("pull in Adam's metric, κ falls, λ in SRFT's unit", "metric", {**grid.SAME_UNIT, "kappa": "cosine"}),
)
COMPARED = (*ADAMW, *OTHERS, *HELD)


TASKS = {
    "digits": {
        "rotated": "digits turned and inverted",
        "halves": "five other classes of digits behind a new head",
        "inverted": "digits inverted",
        "turned": "digits turned",
        "tilted": "digits tilted",
        "permuted": "digits permuted",
        "row": "three kinds of digits in a row",
    },
    "vision": {"fashion": "a ViT learns Fashion-MNIST", "cifar10": "a ViT learns CIFAR-10"},
    "vision_row": {"row": "a ViT learns three tasks in a row"},
    "tracking": {
        **{name: f"a second stream for {name}" for name in ("thermal", "depth")},
        **{f"{name}_alone": f"one stream learns {name} alone" for name in ("thermal", "depth")},
        "event": "a second stream for events",
        "event_alone": "one stream learns events alone",
    },
    "tracking_row": {"row": "one stream learns three modalities in a row"},
}
"""What a reader calls a bench's tasks."""
SIZES = {
    "shots": "{} examples a class",
    "steps": "{} steps",
    "batch": "batches of {}",
    "width": "{} units wide",
    "sequences": "{} sequences",
    "tests": "{} test sequences",
    "frames": "of {} frames",
    "precision": "in {}",
}
"""What a reader calls an option's value."""


def named(bench: str, task: str, shared: Iterable[tuple[str, Any]] = ()) -> str:
    """A situation as a reader knows it: the task, and what differs from the bench's usual options."""
    return f"{TASKS.get(bench, {}).get(task, f'{bench}, {task}')}{changed(shared, bench)}"


def usual(bench: str) -> dict[str, Any]:
    """The sizes, lengths and numbers of examples that a bench has where nothing else is said."""
    sizes = {
        "digits": digits_plan.DIGITS,
        "tracking": tracking_plan.SHORT_TRACKING,
        "tracking_row": tracking_plan.SHORT_TRACKING,
    }
    return sizes.get(bench, vision_plan.VISION)


def situations(records: Iterable[Record], bench: str) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    """Task and shared options (sizes, lengths, numbers of examples) that records were made with."""
    names = usual(bench)
    seen = Counter((record.trial.task, tuple((name, record.trial.get(name)) for name in names)) for record in records)
    return list(seen)


def unusual(shared: Iterable[tuple[str, Any]], bench: str) -> list[tuple[str, Any]]:
    """The options that differ from the bench's usual ones."""
    return [(name, value) for name, value in shared if value != usual(bench)[name]]


def changed(shared: Iterable[tuple[str, Any]], bench: str) -> str:
    """What differs from the bench's usual options, in words."""
    different = [
        # A ViT of which no number of last blocks is tuned is tuned whole.
        "all blocks" if (name, value) == ("blocks", 0) else SIZES.get(name, f"{{}} {name}").format(value)
        for name, value in unusual(shared, bench)
    ]
    return f" ({', '.join(different)})" if different else ""


def gathered(records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> dict[str, Results]:
    """The results of every family that has any. Families of one name, such as LoRA, are of different benches."""
    listed = list(records)
    found = [(family.name, results_of(family, listed, task, shared)) for family in COMPARED]
    return {name: results for name, results in found if results}


def best_of(families: Iterable[Family], found: Mapping[str, Results]) -> str | None:
    """Of some families the one that is best on validation data, of those that ran with the most seeds."""
    values, counts = {}, {}
    for family in families:
        if family.name in found:
            key = chosen(found[family.name])
            assert key is not None
            values[family.name] = balance(means(found[family.name])[key])
            counts[family.name] = len(found[family.name][key])
    values = {name: value for name, value in values.items() if counts[name] == max(counts.values())}
    return max(values, key=lambda name: values[name]) if values else None
