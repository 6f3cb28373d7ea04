"""``rgbx demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=2, show_default=True, help="Repetitions to average.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--quick", is_flag=True, help="Everything, tiny: to see that it works. The figures mean nothing.")
def demo(out: Path, seeds: int, first_seed: int, quick: bool) -> None:
    """Fine-tune the shipped RGB tracker to RGB-thermal with AdamW and with SRFT, and compare."""
    from tracker.demo import run_demo

    click.echo(run_demo(out, seeds=range(first_seed, first_seed + seeds), quick=quick))
