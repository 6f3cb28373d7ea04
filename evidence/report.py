"""The page of results, with its figures: every table is made from the records alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence import digits_plan
from evidence.compared import COMPARED, gathered, named, situations, unusual
from evidence.figures import plane, sensitivity
from evidence.statistics import tried
from evidence.tables import (
    conditions_table,
    examples_table,
    methods_table,
    overview_table,
    pooled_settings_table,
    rules_table,
    settings_table,
    strength_table,
)
from evidence.tracking_success import ALONE
from evidence.trials import RESULTS, ROOT, Record, Store

DRAWN = (
    "AdamW",
    "AdamW, interpolated (WiSE-FT)",
    "LoRA",
    "LoRA, held by SRFT",
    "L2-SP, in the loss",
    "EWC, in the loss",
    "SRFT",
    "SRFT, global mean, κ falls",
)
BENCHES = {
    "digits": ("Digits", "accuracy on the new kind of digits", "accuracy on upright digits"),
    "vision": ("ViT-S/14, from few images", "accuracy on the new images", "accuracy of the old head on the old ones"),
    "vision_row": (
        "ViT-S/14, three tasks in a row",
        "accuracy on each task right after it was learned",
        "accuracy on all earlier tasks at the end",
    ),
    "tracking": ("Tiny tracker", "success on RGB-X", "success of the RGB stream on RGB"),
    "tracking_row": (
        "Tiny tracker, three modalities in a row",
        "success on each modality right after it was learned",
        "success on all earlier ones at the end",
    ),
}


def before_of(records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> list[float]:
    """The mean over seeds of the measures before training."""
    seeds = {
        r.trial.seed: r.before for r in records if r.trial.task == task and shared.items() <= r.trial.settings.items()
    }
    return [float(v) for v in np.mean(list(seeds.values()), axis=0)]


def stem_of(bench: str, task: str, shared: Iterable[tuple[str, Any]]) -> str:
    """The beginning of the names of a situation's figures."""
    return "-".join([bench, task, *(f"{value}-{name}" for name, value in unusual(shared, bench))])


def bench_sections(bench: str, records: Sequence[Record], figures: Path) -> list[str]:
    title, new, old = BENCHES[bench]
    lines = [f"## {title}", "", f"New: {new}. Kept: {old}. Percent, mean over seeds with 95 % intervals.", ""]
    for task, shared in situations(records, bench):
        found = gathered(records, task, dict(shared))
        if len(found) < 2:
            continue
        modality, one_stream, _ = task.partition(ALONE)
        if one_stream:
            new, old = f"success on {modality} alone", "success of the same weights on RGB"
        else:
            _, new, old = BENCHES[bench]
        label = named(bench, task, shared)
        heading = label[0].upper() + label[1:]
        stem = stem_of(bench, task, shared)
        before = before_of(records, task, dict(shared))
        lines += [f"### {heading}", ""]
        drawn = {family: results for family, results in found.items() if family in DRAWN}
        plane(drawn, before, figures / f"{stem}.png", new, old, heading)
        lines += [f"![{heading}: new against kept](figures/{stem}.png)", ""]
        every = [(family.name, tried(family, records, task, dict(shared))) for family in COMPARED]
        counts = {name: count for name, count in every if count}
        lines += [*methods_table(found, before, counts), ""]
        examples = examples_table(records, task, dict(shared))
        if examples:
            lines += ["Each configuration on its test examples, paired with the untouched network:", "", *examples, ""]
        conditions = conditions_table(records, task, dict(shared))
        if conditions:
            lines += ["The new task by what is hard in a sequence:", "", *conditions, ""]
        if {"SRFT", "AdamW"} <= set(found):
            sensitivity(found, figures / f"{stem}-rates.png", heading)
            lines += [f"![{heading}: learning rate](figures/{stem}-rates.png)", ""]
    return lines


HEAD = """# Does it help? The figures

Made by `python -m evidence report` from the records in `evidence/results/`;
[docs/evidence.md]({docs}) says what follows. A method's learning rate and λ are those with the highest
mean of new and old on *validation* data, over all seeds; what is printed is on *test* data. "Tried" is how many
configurations it was chosen from, free readouts (averages, mixtures, earlier steps) among them. Differences are paired
over seeds, with the p of a two-sided paired t test, not corrected for the number of comparisons. "New at best for new"
is the new task's accuracy where the configuration is chosen for the new task alone.
"""


def places_section(stores: Mapping[str, Store]) -> list[str]:
    lines = [
        "## Where it ran",
        "",
        "| bench | records | machine | threads | torch | commit | command |",
        "|---|---:|---|---:|---|---|---|",
    ]
    for bench, store in stores.items():
        count = Counter(record.place for record in store)
        for place, number in count.items():
            at = store.places[place]
            lines.append(
                f"| {bench} | {number} | {at['machine']}, {at['device']} | {at['threads']} | {at['torch']} "
                f"| {at['commit']} | `{at['command']}` |"
            )
    return lines


def write(results: Path = RESULTS) -> Path:
    """Write ``page.md`` and ``figures/`` beside the folder of the records; returns the page."""
    stores = {bench: Store(results / f"{bench}.jsonl") for bench in BENCHES if (results / f"{bench}.jsonl").exists()}
    figures = results.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for figure in figures.glob("*.png"):  # those of situations that are gone would stay
        figure.unlink()
    every = {bench: list(store) for bench, store in stores.items()}
    docs = os.path.relpath(ROOT / "docs" / "evidence.md", results.resolve().parent)
    lines = [
        HEAD.format(docs=Path(docs).as_posix()),
        "## Everything at once",
        "",
        OVERVIEW_NOTE,
        "",
        *overview_table(every),
        "",
    ]
    for bench, store in stores.items():
        lines += bench_sections(bench, list(store), figures)
    if "digits" in stores:
        records = list(stores["digits"])
        by_task = {task: settings_table(records, task) for task in digits_plan.DIGITS_TASKS}
        by_task = {task: table for task, table in by_task.items() if len(table) > 6}
        if len(by_task) > 1:
            pooled = pooled_settings_table(records, list(by_task))
            lines += ["## Settings of SRFT: several kinds of digits", "", SETTINGS_NOTE, "", *pooled, ""]
        for task, table in by_task.items():
            lines += [f"## Settings of SRFT: {named('digits', task)}", "", *table, ""]
    strengths = strength_table(every)
    lines += ["## The strength", "", STRENGTH_NOTE, "", *strengths, ""]
    rules = rules_table(every)
    lines += ["## Strengths that nobody searches for", "", RULES_NOTE, "", *rules, ""]
    lines += [*places_section(stores), ""]
    page = results.parent / "page.md"
    page.write_text("\n".join(lines))
    return page


OVERVIEW_NOTE = """Where SRFT helps, where it makes no difference and where it loses: the mean of new and kept on test
data, in points, of SRFT less another method. AdamW is the best of plain, early stopped, averaged and interpolated
weights, SRFT of κ = 1 (over the mean of each tensor or of all) and of κ that falls; for tasks in a row also with each
task's P over its own mean. A difference without an interval is of one seed and has several points of noise."""

SETTINGS_NOTE = """The mean of new and kept on test data, each setting at its own best learning rate and λ on each
kind of digits, less that of plain SRFT (κ = 1, no damping, the mean over a tensor, the exact Fisher on old data) at its
own best."""

RULES_NOTE = """Mean of new and kept on test data with a strength that is fixed beforehand, less that of the best of all
strengths and of three kinds of SRFT (chosen on validation data of the seeds that all of them have, compared over those
that both have, of which the brackets say how many where they are not all). "λ 100 to
0.1": global mean, κ falls exponentially from 1 to 0.001."""

STRENGTH_NOTE = """Mean of new and kept on test data at each λ, less that at the λ that is best on validation data; the
learning rate is the best one for each λ."""
