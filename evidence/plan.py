"""The experiments, as lists of trials: the cheapest and most telling first."""

from __future__ import annotations

from evidence import digits_plan, tracking_plan, vision_plan
from evidence.grid import FEW_SEEDS, fixed_strengths, grid
from evidence.trials import Trial

PARTS: dict[str, list[Trial]] = {
    "digits-rotated": list(digits_plan.methods(["rotated"], FEW_SEEDS)),
    "digits-settings": list(digits_plan.settings(["rotated"], FEW_SEEDS)),
    "digits-tasks": list(digits_plan.methods(digits_plan.DIGITS_TASKS[1:], FEW_SEEDS)),
    "vision-core": list(vision_plan.core("fashion", FEW_SEEDS)),
    "vision-row-choice": list(vision_plan.in_a_row((0,))),
    "vision-row": list(vision_plan.in_a_row_core(FEW_SEEDS)),
    "vision-row-rules": list(vision_plan.in_a_row_rules((0, 1))),
    "vision-near": [*vision_plan.core("cifar10", FEW_SEEDS), *vision_plan.core_near("cifar10", FEW_SEEDS)],
    "vision-choice": list(vision_plan.choice(["fashion"], (0, 1))),
    "vision-choice-near": list(vision_plan.choice(["cifar10"], (0,))),
    "vision-estimators": list(vision_plan.estimators("fashion", (0, 1))),
    "vision-old-head-choice": list(vision_plan.old_head_choice(vision_plan.VISION_TASKS, (0,))),
    "vision-old-head": list(vision_plan.old_head(vision_plan.VISION_TASKS, FEW_SEEDS)),
    "vision-old-head-held": list(vision_plan.old_head_held(vision_plan.VISION_TASKS, FEW_SEEDS)),
    "vision-unit": list(vision_plan.unit("fashion", (0,))),
    "vision-rules": fixed_strengths("vision", "fashion", vision_plan.VISION, 1e-4),
    "vision-frozen": list(vision_plan.frozen("fashion", (0,))),
    "vision-few": list(vision_plan.longer("fashion", FEW_SEEDS, shots=2)),
    "vision-many": list(vision_plan.longer("fashion", FEW_SEEDS, shots=50)),
    "vision-steps": list(vision_plan.longer("fashion", FEW_SEEDS, steps=300)),
    "vision-rivals": list(vision_plan.rivals("fashion", FEW_SEEDS, {}, {"shots": 2}, {"shots": 50})),
    "vision-between": [
        *vision_plan.between("fashion", FEW_SEEDS, {}, {"shots": 2}, {"shots": 50}),
        *grid("vision_row", ["row"], "adamw", FEW_SEEDS, vision_plan.VISION, lr=(2e-5,)),
    ],
    "vision-rivals-steps": list(vision_plan.rivals("fashion", FEW_SEEDS, {"steps": 300})),
    "tracking-core": list(tracking_plan.core(FEW_SEEDS)),
    "tracking-ways-core": list(tracking_plan.ways_core(FEW_SEEDS, ["thermal"])),
    "tracking-ways-strength": list(dict.fromkeys(tracking_plan.ways_strength(FEW_SEEDS, ["thermal"]))),
    "tracking-ways-strength-depth": list(
        grid("tracking", ["depth"], "srft", FEW_SEEDS, tracking_plan.SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))
    ),
    "tracking-ways-depth": list(tracking_plan.ways_core((0, 1), ["depth"])),
    "tracking-ways-depth-more": list(tracking_plan.ways_core((2, 3, 4), ["depth"], others=False)),
    "tracking-ways-held": list(tracking_plan.ways_held(FEW_SEEDS, ["event", "depth"])),
    "tracking-ways-choice": list(tracking_plan.ways_choice((0,), ["thermal"])),
    "tracking-ways-rivals": list(tracking_plan.ways_rivals(FEW_SEEDS, tracking_plan.MODALITIES)),
    "tracking-ways-held-lower": list(tracking_plan.ways_held_lower(FEW_SEEDS, ("thermal", "event"))),
    "tracking-ways-others": list(tracking_plan.ways_others(FEW_SEEDS, ["thermal"])),
    "tracking-ways-others-depth": list(tracking_plan.ways_others(FEW_SEEDS, ["depth"])),
    "tracking-short": list(tracking_plan.ways(FEW_SEEDS, tracking_plan.MODALITIES, tracking_plan.SHORT_TRACKING)),
    "tracking-x-prior": list(tracking_plan.x_prior((0,), tracking_plan.MODALITIES)),
    "tracking-high": list(tracking_plan.high((0,), ["thermal"])),
    "tracking-alone-choice": list(tracking_plan.alone((0,), ["depth_alone"])),
    "tracking-alone": list(tracking_plan.alone_core(FEW_SEEDS, "depth_alone")),
    "tracking-alone-between": list(tracking_plan.alone_between(FEW_SEEDS, "depth_alone")),
    "tracking-alone-ways": list(tracking_plan.alone_ways((0,), "depth_alone")),
    "tracking-alone-ways-core": list(tracking_plan.alone_ways_core(FEW_SEEDS, "depth_alone")),
    "tracking-alone-unit": list(tracking_plan.alone_unit((0,), "depth_alone")),
    "tracking-alone-rules": fixed_strengths("tracking", "depth_alone", tracking_plan.SHORT_TRACKING, 3e-3),
    "tracking-row-choice": list(tracking_plan.in_a_row_choice((0,))),
    "tracking-row-means-choice": list(tracking_plan.in_a_row_means((0,))),
    "tracking-row": list(tracking_plan.in_a_row(FEW_SEEDS)),
    "tracking-alone-long": list(tracking_plan.alone_core((0, 1), "depth_alone", steps=400)),
    "tracking-alone-longer": list(tracking_plan.alone_longer((0, 1, 2), "depth_alone", steps=1000)),
    "tracking-alone-few": list(tracking_plan.alone_core((0, 1), "depth_alone", sequences=2)),
    "tracking-alone-thermal": list(tracking_plan.alone_core(FEW_SEEDS, "thermal_alone")),
    "tracking-alone-event-long": list(tracking_plan.alone_core((0,), "event_alone", steps=400)),
    "tracking-alone-event": list(tracking_plan.alone(FEW_SEEDS, ["event_alone"])),
    "digits-afterwards": list(digits_plan.afterwards(digits_plan.DIGITS_TASKS, FEW_SEEDS)),
    "digits-paths": list(digits_plan.paths(digits_plan.DIGITS_TASKS, FEW_SEEDS)),
    "digits-row": list(digits_plan.in_a_row(FEW_SEEDS)),
    "digits-shapes": list(digits_plan.shapes(["rotated"], FEW_SEEDS)),
    "digits-settings-tasks": list(digits_plan.settings(["halves", "turned"], FEW_SEEDS)),
    "digits-normalization": list(digits_plan.normalization(digits_plan.DIGITS_TASKS, FEW_SEEDS)),
    "digits-unit": list(digits_plan.unit(FEW_SEEDS)),
    "digits-in-loss": list(digits_plan.in_loss(FEW_SEEDS)),
    "digits-low-rank": list(digits_plan.low_rank(["rotated"], FEW_SEEDS)),
    "digits-low-rank-tasks": list(digits_plan.low_rank(["halves", "turned"], FEW_SEEDS)),
    "vision": list(vision_plan.whole(vision_plan.VISION_TASKS, FEW_SEEDS)),
    "vision-long": list(vision_plan.sizes("fashion", FEW_SEEDS, steps=600)),
    "vision-2": list(vision_plan.sizes("fashion", FEW_SEEDS, shots=2)),
    "vision-50": list(vision_plan.sizes("fashion", FEW_SEEDS, shots=50, steps=240)),
    "tracking": list(tracking_plan.ways(FEW_SEEDS, tracking_plan.MODALITIES, tracking_plan.TRACKING)),
    "tracking-long": list(tracking_plan.alone_core(FEW_SEEDS, "depth_alone", steps=2000)),
}
"""The parts of the plan, by name, in the order in which they run."""
ALL = list(PARTS)
SHORT = ["digits-rotated", "vision-core", "tracking-alone", "digits-tasks"]
"""At most an hour on two cores."""
