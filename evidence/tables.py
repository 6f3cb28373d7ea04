"""The tables of the page, from the records alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evidence import digits_plan, grid
from evidence.compared import ADAMW, COMPARED, SRFT, best_of, gathered, named, situations
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
    with_most_seeds,
)
from evidence.trials import Record


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
        base = {seed: both_on_test(m) for seed, m in _at_best(found[reference]).items()}
    for name, results in found.items():
        key, greedy = chosen(results), chosen(results, new_task)
        if key is None or greedy is None:
            continue
        seeds = results[key]
        columns = [estimate([m[i] for m in seeds.values()]) for i in (TARGET, KEPT)]
        both = estimate([both_on_test(m) for m in seeds.values()])
        difference = paired({seed: both_on_test(m) for seed, m in seeds.items()}, base)
        against = "(reference)" if name == reference else str(difference) if base else ""
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


PLAIN = Family("plain: κ = 1, tensor mean, exact Fisher", "srft")


def setting_families() -> list[Family]:
    """The plain way to run SRFT, what is changed of it, and damping without a prior."""
    changes: dict[str, Mapping[str, Any]] = {**digits_plan.SETTINGS}
    changes |= {f"damping alone ({kind}), no prior": {"kappa": "0", "damping": kind} for kind in ("rank", "mean")}
    families = [PLAIN]
    for name, change in changes.items():
        options = dict(change)
        families.append(Family(name, options.pop("method", "srft"), options))
    return families


def settings_table(records: Sequence[Record], task: str) -> list[str]:
    """The settings of SRFT on digits, each at its own best learning rate and strength, against the plain one."""
    base = results_of(PLAIN, records, task, digits_plan.DIGITS)
    if not base:
        return []
    reference = {seed: both_on_test(m) for seed, m in _at_best(base).items()}
    lines = [
        "| setting | tried | learning rate, λ | seeds | new | kept | mean of both | against plain |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    rows = []
    for family in setting_families():
        results = results_of(family, records, task, digits_plan.DIGITS)
        key = chosen(results)
        if key is None:
            continue
        seeds = results[key]
        both = {seed: both_on_test(m) for seed, m in seeds.items()}
        columns = [str(estimate([m[i] for m in seeds.values()])) for i in (TARGET, KEPT)]
        row = f"| {family.name} | {len(results)} | {shown(key)} | {len(seeds)} | {' | '.join(columns)} | "
        rows.append(
            (np.mean(list(both.values())), row + f"{estimate(list(both.values()))} | {paired(both, reference)} |")
        )
    return lines + [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def pooled_settings_table(records: Sequence[Record], tasks: Sequence[str]) -> list[str]:
    """The settings of SRFT against the plain one over several kinds of digits: all pairs of kind and seed, and each.

    A setting is at its own best learning rate and strength on each kind. Settings that lack a kind are left out.
    """
    both: dict[str, dict[tuple[str, int], float]] = {}
    for family in setting_families():
        found = {task: results_of(family, records, task, digits_plan.DIGITS) for task in tasks}
        if all(found.values()):
            best = {task: _at_best(results) for task, results in found.items()}
            both[family.name] = {(task, seed): both_on_test(m) for task in tasks for seed, m in best[task].items()}
    reference = both.pop(PLAIN.name, {})
    rows = []
    for name, pairs in both.items():
        every = paired(pairs, reference)
        each = [paired({pair: v for pair, v in pairs.items() if pair[0] == task}, reference) for task in tasks]
        cells = [str(every), *(f"{one.estimate.mean:+.1f} ± {one.estimate.half:.1f}" for one in each)]
        rows.append((every.estimate.mean, f"| {name} | {every.estimate.count} | {' | '.join(cells)} |"))
    head = f"| setting | pairs | against plain, all | {' | '.join(tasks)} |"
    return [head, "|---|---:|---|" + "---|" * len(tasks), *(row for _, row in sorted(rows, key=lambda pair: -pair[0]))]


STRENGTHS_SHOWN = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def strength_table(stores: Mapping[str, Sequence[Record]]) -> list[str]:
    """The best strength of every task, and what is lost by others: at the learning rate that is best for each."""
    lines = [
        "| situation | kind of SRFT | seeds | best λ | " + " | ".join(f"λ {s:g}" for s in STRENGTHS_SHOWN) + " |",
        "|---|---|---:|---:|" + "---:|" * len(STRENGTHS_SHOWN),
    ]
    for bench, records in stores.items():
        for (task, shared), family in itertools.product(situations(records, bench), SRFT):
            results = results_of(family, records, task, dict(shared))
            found = means(results)
            if len({key[1] for key in found}) < 3:
                continue
            best = max(found, key=lambda key: balance(found[key]))
            cells = []
            for strength in STRENGTHS_SHOWN:
                values = [(balance(m), both_on_test(m.tolist())) for key, m in found.items() if key[1] == strength]
                cells.append(f"{max(values)[1] - both_on_test(found[best].tolist()):+.1f}" if values else "")
            label = named(bench, task, shared)
            count = len(next(iter(results.values())))
            lines.append(f"| {label} | {family.name} | {count} | {best[1]:g} | " + " | ".join(cells) + " |")
    return lines


def _path(end: str) -> dict[str, Any]:
    return {"normalize": "global", "kappa": f"exponential to {end}"}


RULES: dict[str, tuple[Family, float]] = {
    "λ 10, κ 1": (Family("plain", "srft"), 10.0),
    "λ 10, global, cosine": (Family("falls", "srft", grid.FALLING), 10.0),
    "λ 30, global, cosine": (Family("falls", "srft", grid.FALLING), 30.0),
    "λ 10, each task over its mean, cosine": (Family("means", "srft", grid.MEANS), 10.0),
    **{
        f"λ {start:g} to {start * float(end):g}": (Family("path", "srft", _path(end)), start)
        for start in (10.0, 30.0, 100.0)
        for end in ("1e-2", "1e-3")
    },
    **{
        f"Adam's metric, λ {strength:g}, cosine": (
            Family("metric", "metric", {**grid.SAME_UNIT, "kappa": "cosine"}),
            strength,
        )
        for strength in (10.0, 30.0)
    },
}
"""Strengths that nobody searches for."""


OTHERS_SHOWN = {"EWC, in the loss": "EWC", "L2-SP, in the loss": "L2-SP", "LoRA": "LoRA"}
"""What SRFT is compared with beside AdamW where everything is seen at once, and how it is called there."""


def overview_table(stores: Mapping[str, Sequence[Record]]) -> list[str]:
    """Every situation in a row: SRFT less the others in the mean of both, each as it is best on validation data.

    AdamW is the best of its readouts, SRFT of its kinds: κ = 1 over the mean of each tensor and over that of all, κ
    that falls, and for tasks in a row each task over its own mean.
    """
    lines = [
        "| situation | AdamW: new, kept | SRFT: new, kept | seeds | SRFT less AdamW | "
        + " | ".join(f"less {name}" for name in OTHERS_SHOWN.values())
        + " |",
        "|---|---|---|---:|---|" + "---|" * len(OTHERS_SHOWN),
    ]
    for bench, records in stores.items():
        for task, shared in situations(records, bench):
            found = gathered(records, task, dict(shared))
            plain, held = best_of(ADAMW, found), best_of(SRFT, found)
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
            row = [named(bench, task, shared), *summaries, str(count), *cells]
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
        "| situation | seeds | best searched: new, kept, mean | " + " | ".join(RULES) + " |",
        "|---|---:|---|" + "---:|" * len(RULES),
    ]
    for bench, records in stores.items():
        for task, shared in situations(records, bench):
            searched = [results_of(family, records, task, dict(shared), comparable=False) for family in SRFT]
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
            label = named(bench, task, shared)
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
