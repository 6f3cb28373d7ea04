"""The page of results, with its figures: every table is made from the records alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence import plan
from evidence.figures import plane, sensitivity
from evidence.statistics import (
    KEPT,
    TARGET,
    Family,
    Results,
    balance,
    both_on_test,
    chosen,
    estimate,
    means,
    new_task,
    paired,
    results_of,
    tried,
    with_most_seeds,
)
from evidence.tracking_success import ALONE
from evidence.trials import RESULTS, Record, Store

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
    Family("LoRA held by SRFT", "lora_srft", plan.FALLING),
)
HELD = (
    Family("SRFT", "srft"),
    Family("SRFT, global mean", "srft", {"normalize": "global"}),
    Family("SRFT, global mean, κ falls", "srft", plan.FALLING),
    Family("SRFT, global mean, κ falls to 0.001", "srft", plan.PATH),
    Family("SRFT, one run through all strengths", "srft", plan.PATH, "at"),
    Family("SRFT, κ falls, every task's P over its mean", "srft", plan.MEANS),
    Family("SRFT, uniform P", "srft", {"estimator": "uniform"}),
    Family("SRFT, MAS", "srft", {"estimator": "mas"}),
    Family("SRFT, MAS on the new images", "srft", {"estimator": "mas_few"}),
    Family("SRFT, global mean, κ falls, MAS on the new images", "srft", {**plan.FALLING, "estimator": "mas_few"}),
    Family(
        "SRFT, global mean, κ falls, every direction of the features", "srft", {**plan.FALLING, "estimator": "features"}
    ),
    Family("LoRA, held by SRFT", "srft", plan.LORA_HELD),
    Family("SRFT, X stream without a prior", "srft", {"x": "none"}),
    Family("SRFT, X stream with a prior of its own", "srft", {"x": "own"}),
    Family("SRFT, global mean, κ falls, X stream without a prior", "srft", {**plan.FALLING, "x": "none"}),
    Family("streams frozen, SRFT", "srft", {"tuning": "frozen"}),
    Family("SDSTrack, SRFT", "srft", {"tuning": "sdstrack"}),
    Family("distilled student, SRFT", "srft", {"tuning": "distill"}),
    Family("pull in Adam's metric", "metric"),
    Family("pull in Adam's metric, κ falls", "metric", {"kappa": "cosine"}),
    Family("pull in Adam's metric, κ falls, λ in a unit", "metric", plan.UNIT),
)
COMPARED = (*ADAMW, *OTHERS, *HELD)
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


def usual(bench: str) -> dict[str, Any]:
    """The sizes, lengths and numbers of examples that a bench has where nothing else is said."""
    sizes = {"digits": plan.DIGITS, "tracking": plan.TRACKING, "tracking_row": plan.SHORT_TRACKING}
    return sizes.get(bench, plan.VISION)


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


def shown(key: tuple[Any, Any, str]) -> str:
    """A configuration for a table."""
    lr, strength, readout = key
    parts = [f"{lr:g}"] if lr is not None else []
    parts += [f"λ {strength:g}"] if strength is not None else []
    readout, _, rank = readout.partition(", ")
    parts += [readout.replace("mix", "α ").replace("at", "after ")] if readout not in ("final", "average") else []
    parts += [rank] if rank else []
    return ", ".join(parts)


def methods_table(found: Mapping[str, Results], before: Sequence[float], counts: Mapping[str, int]) -> list[str]:
    """One row a method, at the configuration that is best on validation data, of as many as ``counts`` says."""
    reference = best_of(ADAMW, found)
    lines = [
        "| method | tried | learning rate, λ | seeds | new | kept | mean of both | against the best AdamW "
        "| new at best for new |",
        "|---|---:|---|---:|---:|---:|---:|---|---:|",
        f"| untouched | | | | {before[TARGET]:.1f} | {before[KEPT]:.1f} | {both_on_test(before):.1f} | | |",
    ]
    base: dict[int, float] = {}
    if reference is not None:
        key = chosen(found[reference])
        assert key is not None
        base = {seed: both_on_test(m) for seed, m in found[reference][key].items()}
    for name, results in found.items():
        key, greedy = chosen(results), chosen(results, new_task)
        if key is None or greedy is None:
            continue
        seeds = results[key]
        columns = [estimate([m[i] for m in seeds.values()]) for i in (TARGET, KEPT)]
        both = estimate([both_on_test(m) for m in seeds.values()])
        difference = paired({seed: both_on_test(m) for seed, m in seeds.items()}, base)
        against = "(reference)" if name == reference else str(difference)
        best_new = estimate([m[TARGET] for m in results[greedy].values()])
        lines.append(
            f"| {name} | {counts[name]} | {shown(key)} | {len(seeds)} | {columns[0]} | {columns[1]} | {both} "
            f"| {against} | {best_new} |"
        )
    return lines


def examples_table(records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> list[str]:
    """Where records hold the score of every test example: what each method changed, paired over all seeds' examples.

    The intervals are of other examples and not of other training runs: with one seed they are too narrow.
    """
    lines = [
        "| method | learning rate, λ | seeds | examples | new | against untouched | kept | against untouched |",
        "|---|---|---:|---:|---:|---|---:|---|",
    ]
    listed = [record for record in records if record.trial.task == task and record.scores]
    for family in COMPARED:
        if family.readout != "final":
            continue
        found: dict[tuple[Any, Any], list[Record]] = {}
        for record in listed:
            if family.holds(record, shared):
                found.setdefault((record.trial.get("lr"), record.trial.get("strength")), []).append(record)
        for (lr, strength), made in found.items():
            cells = []
            for name in ("new", "kept"):
                after, before = (np.concatenate([r.scores[n] for r in made]) for n in (name, f"{name} before"))
                change = estimate(list(after - before))
                cells += [f"{after.mean():.1f}", f"{change.mean:+.1f} ± {change.half:.1f}"]
            count = sum(len(record.scores["new"]) for record in made)
            where = shown((lr, strength, "final"))
            lines.append(f"| {family.name} | {where} | {len(made)} | {count} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


CONDITIONS = {"day": "day", "night": "night", "fog": "fog", "lookalike": "look-alikes", "x fails": "X fails"}


def conditions_table(records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> list[str]:
    """The new task by what is hard in its sequences, where records say: each method where it is best on validation."""
    lines = [
        "| method | learning rate, λ | seeds | " + " | ".join(CONDITIONS.values()) + " |",
        "|---|---|---:|" + "---:|" * len(CONDITIONS),
    ]
    listed = [record for record in records if record.trial.task == task and CONDITIONS.keys() & record.facts.keys()]
    for family in COMPARED:
        key = chosen(results_of(family, listed, task, shared)) if family.readout == "final" else None
        if key is None:
            continue
        made = [
            r for r in listed if family.holds(r, shared) and (r.trial.get("lr"), r.trial.get("strength")) == key[:2]
        ]
        cells = []
        for name in CONDITIONS:
            values = [record.facts[name] for record in made if name in record.facts]
            cells.append(str(estimate(values)) if values else "")
        lines.append(f"| {family.name} | {shown(key)} | {len(made)} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def settings_table(records: Sequence[Record], task: str) -> list[str]:
    """The settings of SRFT, each at its own best learning rate and strength, against the plain one."""
    shared = plan.DIGITS
    base = results_of(Family("plain", "srft"), records, task, shared)
    key = chosen(base)
    if key is None:
        return []
    reference = {seed: both_on_test(m) for seed, m in base[key].items()}
    lines = [
        "| setting | tried | learning rate, λ | seeds | new | kept | mean of both | against plain |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    changes: dict[str, Mapping[str, Any]] = {"plain: κ = 1, tensor mean, exact Fisher": {}, **plan.SETTINGS}
    changes |= {f"damping alone ({kind}), no prior": {"kappa": "0", "damping": kind} for kind in ("rank", "mean")}
    rows = []
    for name, change in changes.items():
        options = dict(change)
        results = results_of(Family(name, options.pop("method", "srft"), options), records, task, shared)
        key = chosen(results)
        if key is None:
            continue
        seeds = results[key]
        both = {seed: both_on_test(m) for seed, m in seeds.items()}
        columns = [str(estimate([m[i] for m in seeds.values()])) for i in (TARGET, KEPT)]
        row = f"| {name} | {len(results)} | {shown(key)} | {len(seeds)} | {' | '.join(columns)} | "
        rows.append(
            (np.mean(list(both.values())), row + f"{estimate(list(both.values()))} | {paired(both, reference)} |")
        )
    return lines + [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def strength_table(stores: Mapping[str, Sequence[Record]]) -> list[str]:
    """The best strength of every task, and what is lost by others: at the learning rate that is best for each."""
    lines = [
        "| bench, task | kind of SRFT | seeds | best λ | " + " | ".join(f"λ {s:g}" for s in STRENGTHS_SHOWN) + " |",
        "|---|---|---:|---:|" + "---:|" * len(STRENGTHS_SHOWN),
    ]
    for bench, records in stores.items():
        for (task, shared), family in itertools.product(situations(records, bench), HELD[:3]):
            results = results_of(family, records, task, dict(shared))
            found = means(results)
            if len({key[1] for key in found}) < 3:
                continue
            best = max(found, key=lambda key: balance(found[key]))
            cells = []
            for strength in STRENGTHS_SHOWN:
                values = [(balance(m), both_on_test(m.tolist())) for key, m in found.items() if key[1] == strength]
                cells.append(f"{max(values)[1] - both_on_test(found[best].tolist()):+.1f}" if values else "")
            label = f"{bench}, {task}{changed(shared, bench)}"
            count = len(next(iter(results.values())))
            lines.append(f"| {label} | {family.name} | {count} | {best[1]:g} | " + " | ".join(cells) + " |")
    return lines


def _path(end: str) -> dict[str, Any]:
    return {"normalize": "global", "kappa": f"exponential to {end}"}


RULES: dict[str, tuple[Family, float]] = {
    "λ 10, κ 1": (Family("plain", "srft"), 10.0),
    "λ 10, global, cosine": (Family("falls", "srft", plan.FALLING), 10.0),
    "λ 30, global, cosine": (Family("falls", "srft", plan.FALLING), 30.0),
    **{
        f"λ {start:g} to {start * float(end):g}": (Family("path", "srft", _path(end)), start)
        for start in (10.0, 30.0, 100.0)
        for end in ("1e-2", "1e-3")
    },
    **{
        f"Adam's metric, λ {strength:g}": (Family("metric", "metric", plan.UNIT), strength)
        for strength in (30.0, 100.0)
    },
}
"""Strengths that nobody searches for."""


OTHERS_SHOWN = {"EWC, in the loss": "EWC", "L2-SP, in the loss": "L2-SP", "LoRA": "LoRA"}
"""What SRFT is compared with beside AdamW where everything is seen at once, and how it is called there."""


def overview_table(stores: Mapping[str, Sequence[Record]]) -> list[str]:
    """Every situation in a row: SRFT less the others in the mean of both, each as it is best on validation data.

    AdamW is the best of its readouts, SRFT of three kinds: κ = 1 over the mean of each tensor and over that of all, and
    κ that falls.
    """
    lines = [
        "| bench, task | AdamW: new, kept | SRFT: new, kept | seeds | SRFT less AdamW | "
        + " | ".join(f"less {name}" for name in OTHERS_SHOWN.values())
        + " |",
        "|---|---|---|---:|---|" + "---|" * len(OTHERS_SHOWN),
    ]
    for bench, records in stores.items():
        for task, shared in situations(records, bench):
            found = gathered(records, task, dict(shared))
            plain, held = best_of(ADAMW, found), best_of(HELD[:3], found)
            if plain is None or held is None:
                continue
            best = {name: _at_best(found[name]) for name in (plain, held, *OTHERS_SHOWN) if name in found}
            both = {name: {seed: both_on_test(m) for seed, m in seeds.items()} for name, seeds in best.items()}
            summaries = []
            for name in (plain, held):
                mean = np.mean(list(best[name].values()), axis=0)
                summaries.append(f"{mean[TARGET]:.1f}, {mean[KEPT]:.1f}")
            cells = [str(paired(both[held], both[n])) if n in both else "" for n in (plain, *OTHERS_SHOWN)]
            count = len(set(best[plain]) & set(best[held]))
            row = [f"{bench}, {task}{changed(shared, bench)}", *summaries, str(count), *cells]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def _at_best(results: Results) -> dict[int, list[float]]:
    """The measures of each seed at the configuration that is best on validation data."""
    key = chosen(results)
    assert key is not None
    return results[key]


def rules_table(stores: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return what each rule loses against the best of everything that was searched with SRFT.

    The learning rate is searched for both.
    """
    lines = [
        "| bench, task | seeds | best searched: new, kept, mean | " + " | ".join(RULES) + " |",
        "|---|---:|---|" + "---:|" * len(RULES),
    ]
    for bench, records in stores.items():
        for task, shared in situations(records, bench):
            searched = [results_of(family, records, task, dict(shared), comparable=False) for family in HELD[:3]]
            every = [seeds for results in searched for seeds in results.values()]
            best = best_searched(every)
            if best is None:
                continue
            reference = {seed: both_on_test(measures) for seed, measures in best.items()}
            cells = []
            for family, strength in RULES.values():
                results = results_of(family, records, task, dict(shared), comparable=False)
                results = with_most_seeds({key: seeds for key, seeds in results.items() if key[1] == strength})
                key = chosen(results)
                if key is None:
                    cells.append("")
                    continue
                both = {seed: both_on_test(measures) for seed, measures in results[key].items()}
                difference = paired(both, reference).estimate
                cells.append(
                    f"{difference.mean:+.1f}" + (f" ({difference.count})" if difference.count < len(best) else "")
                )
            mean = np.mean(list(best.values()), axis=0)
            label = f"{bench}, {task}{changed(shared, bench)}"
            summary = f"{mean[TARGET]:.1f}, {mean[KEPT]:.1f}, {both_on_test(mean.tolist()):.1f}"
            lines.append(f"| {label} | {len(best)} | {summary} | " + " | ".join(cells) + " |")
    return lines


def best_searched(every: Sequence[dict[int, list[float]]]) -> dict[int, list[float]] | None:
    """Of configurations the one that is best on validation data, over the seeds that most of at least four share."""
    for count in sorted({len(seeds) for seeds in every}, reverse=True):
        candidates = [seeds for seeds in every if len(seeds) >= count]
        common = set.intersection(*(set(seeds) for seeds in candidates))
        if len(candidates) >= 4 and common:
            return max(candidates, key=lambda seeds: balance(np.mean([seeds[seed] for seed in common], axis=0)))
    return None


STRENGTHS_SHOWN = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def situations(records: Iterable[Record], bench: str) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    """Task and shared options (sizes, lengths, numbers of examples) that records were made with."""
    names = usual(bench)
    seen = Counter((record.trial.task, tuple((name, record.trial.get(name)) for name in names)) for record in records)
    return list(seen)


def changed(shared: Iterable[tuple[str, Any]], bench: str) -> str:
    """What differs from the bench's usual options."""
    different = [f"{value} {name}" for name, value in shared if value != usual(bench)[name]]
    return f" ({', '.join(different)})" if different else ""


def before_of(records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> list[float]:
    """The mean over seeds of the measures before training."""
    seeds = {
        r.trial.seed: r.before for r in records if r.trial.task == task and shared.items() <= r.trial.settings.items()
    }
    return [float(v) for v in np.mean(list(seeds.values()), axis=0)]


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
        label = f"{task}{changed(shared, bench)}"
        stem = f"{bench}-{label}".translate(str.maketrans(" ", "-", "(),"))
        before = before_of(records, task, dict(shared))
        lines += [f"### {label}", ""]
        drawn = {family: results for family, results in found.items() if family in DRAWN}
        plane(drawn, before, figures / f"{stem}.png", new, old, f"{title}: {label}")
        lines += [f"![{title}, {label}: new against kept](figures/{stem}.png)", ""]
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
            sensitivity(found, figures / f"{stem}-rates.png", f"{title}: {label}")
            lines += [f"![{title}, {label}: learning rate](figures/{stem}-rates.png)", ""]
    return lines


HEAD = """# Does it help? The figures

Made by `python -m evidence report` from the records in `evidence/results/`;
[docs/evidence.md](../docs/evidence.md) says what follows. A method's learning rate and λ are those with the highest
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
    every = {bench: list(store) for bench, store in stores.items()}
    lines = [HEAD, "## Everything at once", "", OVERVIEW_NOTE, "", *overview_table(every), ""]
    for bench, store in stores.items():
        lines += bench_sections(bench, list(store), figures)
    if "digits" in stores:
        records = list(stores["digits"])
        for task in plan.DIGITS_TASKS:
            table = settings_table(records, task)
            if len(table) > 6:
                lines += [f"## Settings of SRFT: digits, {task}", "", *table, ""]
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
weights, SRFT of κ = 1 (over the mean of each tensor or of all) and of κ that falls. A difference without an interval is
of one seed and has several points of noise."""

RULES_NOTE = """Mean of new and kept on test data with a strength that is fixed beforehand, less that of the best of all
strengths and of three kinds of SRFT (chosen on validation data of the seeds that all of them have, compared over those
that both have, of which the brackets say how many where they are not all). "λ 100 to
0.1": global mean, κ falls exponentially from 1 to 0.001."""

STRENGTH_NOTE = """Mean of new and kept on test data at each λ, less that at the λ that is best on validation data; the
learning rate is the best one for each λ."""
