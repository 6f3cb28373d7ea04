"""The experiments with digits, as lists of trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from evidence.grid import FALLING, IN_LOSS, MEANS, PATH, SAME_UNIT, UNIT, grid
from evidence.trials import Trial

DIGITS: dict[str, Any] = {"shots": 5, "steps": 300, "batch": 32, "width": 128}
DIGITS_TASKS = ("rotated", "halves", "inverted", "turned", "tilted", "permuted")
SHAPES = ({"shots": 2}, {"shots": 10}, {"shots": 50}, {"steps": 3000}, {"batch": 4}, {"width": 32}, {"width": 512})
"""Other sizes, lengths and numbers of examples than the usual ones."""
RATES = (1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)
HELD_RATES = (3e-3, 1e-2, 3e-2)
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
COUPLED_STRENGTHS = {"l2sp": (1e-2, 3e-2, 1e-1, 1.0), "ewc": (1e3, 1e4, 1e5, 1e6)}
"""AdamW has 12 learning rates, SRFT 3 times 5 settings, the coupled penalties 3 times 4: about as many for each."""


def methods(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
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


def settings(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Each setting over the same learning rates and strengths as the main one."""
    for seed, setting in itertools.product(seeds, SETTINGS.values()):
        fixed = {**DIGITS, **changed, **setting}
        method = fixed.pop("method", "srft")
        strengths = STRENGTHS if method == "srft" else COUPLED_STRENGTHS["ewc"]
        yield from grid("digits", tasks, method, [seed], fixed, lr=HELD_RATES[1:], strength=strengths)
    for seed, damping in itertools.product(seeds, ("rank", "mean")):
        fixed = {**DIGITS, **changed, "kappa": "0", "damping": damping}
        yield from grid("digits", tasks, "srft", [seed], fixed, lr=RATES[4:], strength=(0.0,))


def afterwards(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Strengths that are chosen after training: a way back by significance, and a run that passes through all."""
    path = {**DIGITS, **PATH}
    for seed in seeds:
        yield from grid("digits", tasks, "merged", [seed], DIGITS, lr=RATES[4::2])
        yield from grid("digits", tasks, "srft", [seed], path, lr=HELD_RATES[:2], strength=(100.0,))


def paths(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """κ that falls exponentially, from several strengths and to several shares of them."""
    for seed in seeds:
        for end in ("1e-2", "1e-3"):
            path = {**DIGITS, "normalize": "global", "kappa": f"exponential to {end}"}
            yield from grid("digits", tasks, "srft", [seed], path, lr=HELD_RATES[:2], strength=(10.0, 30.0, 100.0))


def shapes(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Other sizes, lengths and numbers of examples."""
    for seed, change in itertools.product(seeds, SHAPES):
        fixed = {**DIGITS, **change}
        yield from grid("digits", tasks, "adamw", [seed], fixed, lr=RATES[2::2])
        falling, path, rates = {**fixed, **FALLING}, {**fixed, **PATH}, (1e-3, *HELD_RATES[:2])
        yield from grid("digits", tasks, "srft", [seed], falling, lr=rates, strength=(1.0, 3.0, 10.0, 30.0, 100.0))
        yield from grid("digits", tasks, "srft", [seed], path, lr=rates, strength=(30.0, 100.0))
        yield from grid("digits", tasks, "ewc", [seed], fixed, lr=rates, strength=COUPLED_STRENGTHS["ewc"])


def unit(seeds: Iterable[int]) -> Iterator[Trial]:
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


def metric(seeds: Iterable[int]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in SRFT's unit, on every kind of digits."""
    for seed in seeds:
        falling, strengths = {**DIGITS, **SAME_UNIT, "kappa": "cosine"}, (1.0, 3.0, 10.0, 30.0, 100.0)
        yield from grid("digits", DIGITS_TASKS, "metric", [seed], falling, lr=HELD_RATES[:2], strength=strengths)
        row = {**falling, "shots": 10}
        yield from grid("digits", ["row"], "metric", [seed], row, lr=HELD_RATES[:2], strength=strengths)


def in_loss(seeds: Iterable[int]) -> Iterator[Trial]:
    """EWC in the loss with P over its mean, on every kind of digits."""
    fixed, strengths = {**DIGITS, **IN_LOSS}, (0.3, 1.0, 3.0)
    for seed in seeds:
        yield from grid("digits", DIGITS_TASKS, "srft", [seed], fixed, lr=HELD_RATES[:2], strength=strengths)


def low_rank(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """LoRA, and LoRA held by significance: in the loss, and by SRFT around its AdamW.

    B begins at zero, whose RMS counts as 1e-3 in the unit of λ; so λ is a hundredth of what it is elsewhere.
    """
    for seed in seeds:
        yield from grid("digits", tasks, "lora", [seed], DIGITS, rank=(2, 8), lr=(2e-3, 5e-3, 1e-2, 3e-2))
        held: dict[str, Any] = {"rank": (2, 8), "lr": (5e-3, 2e-2)}
        yield from grid("digits", tasks, "lalora", [seed], DIGITS, **held, strength=(1e4, 1e5, 1e6))
        falling = {**DIGITS, **FALLING}
        yield from grid("digits", tasks, "lora_srft", [seed], falling, **held, strength=(1e-2, 1e-1, 1.0))


def normalization(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """The mean over all tensors with κ = 1, at as many configurations as the mean over each has."""
    for seed in seeds:
        equal = {**DIGITS, "normalize": "global"}
        yield from grid("digits", tasks, "srft", [seed], equal, lr=HELD_RATES, strength=STRENGTHS)


def in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
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
