"""``rgbx data``: generate and check."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import writing
from tracker.errors import RGBXError


@click.group()
def data() -> None:
    """Generate data sets, and check folders."""


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["lasher", "depthtrack", "visevent", "folders"]),
    default="lasher",
    show_default=True,
)
@click.option("--count", type=click.IntRange(1), default=8, show_default=True)
@click.option("--length", type=click.IntRange(2), default=60, show_default=True)
@click.option("--size", default="192x144", show_default=True, help="WIDTHxHEIGHT")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--difficulty", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--modality", type=click.Choice(["thermal", "depth", "event"]), help="For the layout folders.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def generate(
    root: Path,
    layout: str,
    count: int,
    length: int,
    size: str,
    seed: int,
    difficulty: float,
    modality: str | None,
    split: str,
) -> None:
    """Write generated RGB-X sequences to ROOT in a data set's layout."""
    from tracker.data.layouts import write_dataset
    from tracker.data.synthetic import SyntheticConfig, synthetic_dataset

    own = {"lasher": "thermal", "depthtrack": "depth", "visevent": "event"}.get(layout)
    if modality is not None and own is not None and modality != own:
        raise RGBXError(f"the layout {layout} holds {own} sequences, not {modality}; leave --modality out")
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise RGBXError(f'--size "{size}" is not WIDTHxHEIGHT, for instance 192x144') from None
    config = SyntheticConfig(
        modality=modality or own or "thermal",
        size=(width, height),
        length=length,
        seed=seed,
        difficulty=difficulty,
        split=split,
    )
    with writing(root):
        written = write_dataset(synthetic_dataset(config, count, cache=False), root, layout, split, progress=True)
    click.echo(f"wrote {len(written)} sequences to {root}")


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train or test, where the data set has lists.")
@click.option("--decode/--no-decode", default=True, help="Read every frame, or file names and boxes only.")
def check(root: Path, layout: str, split: str | None, decode: bool) -> None:
    """Say what is wrong with the data set in ROOT; exit 1 if anything is."""
    from tracker.data.check import check_dataset

    report = check_dataset(root, layout, split, decode, progress=True)
    click.echo(str(report))
    if not report.ok:
        raise click.exceptions.Exit(1)
