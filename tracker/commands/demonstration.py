"""``rgbx demo``."""

from __future__ import annotations

from pathlib import Path

import click

SEEDS = {"depth": 4, "thermal": 2}
"""Repetitions that end within six minutes on two cores."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option(
    "--task",
    type=click.Choice(list(SEEDS)),
    default="depth",
    show_default=True,
    help="depth: the RGB tracker itself learns depth images alone. thermal: two streams learn RGB-thermal.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=None, help="Repetitions: depth 4, thermal 2 by default.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--quick", is_flag=True, help="Everything, tiny: to see that it works. The figures mean nothing.")
def demo(out: Path, task: str, seeds: int | None, first_seed: int, quick: bool) -> None:
    """Fine-tune the shipped RGB tracker to another camera with AdamW and with SRFT, and compare."""
    from tracker.demo import run_demo

    count = seeds or SEEDS[task]
    click.echo(run_demo(out, seeds=range(first_seed, first_seed + count), quick=quick, task=task))
