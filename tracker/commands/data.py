"""``rgbx data``: generate, check, and draw events."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tracker.commands.shared import StyleChoice, writing
from tracker.data.layout_names import LAYOUT_MODALITIES
from tracker.errors import RGBXError
from tracker.files import write_text


@click.group()
def data() -> None:
    """Generate data sets, check folders, and draw event cameras' recordings."""


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(list(LAYOUT_MODALITIES)), default="lasher", show_default=True)
@click.option("--count", type=click.IntRange(1), default=8, show_default=True)
@click.option("--length", type=click.IntRange(2), default=60, show_default=True)
@click.option("--size", default="192x144", show_default=True, help="WIDTHxHEIGHT")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--difficulty", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--modality", type=click.Choice(["rgb", "thermal", "depth", "event"]), help="For the layout folders.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option("--recordings", is_flag=True, help="Also write .aedat4 recordings (needs dv-processing).")
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
    recordings: bool,
) -> None:
    """Write generated RGB-X sequences to ROOT in a data set's layout."""
    from tracker.data.generate import generate_dataset
    from tracker.data.synthetic import SyntheticConfig

    own = LAYOUT_MODALITIES[layout]
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
        written = generate_dataset(config, count, root, layout, split, recordings, progress=True)
    click.echo(f"wrote {len(written)} sequences to {root}")


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train, test, val, train_without_val or a list file; by default everything.")
@click.option("--decode/--no-decode", default=True, help="Read every frame, or file names and boxes only.")
@click.option("--workers", type=click.IntRange(1), help="Threads that decode; by default one for each core.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the whole report to this file.")
def check(root: Path, layout: str, split: str | None, decode: bool, workers: int | None, file: Path | None) -> None:
    """Say what is wrong with the data set in ROOT; exit 1 if anything is."""
    from tracker.data.check import check_dataset

    if workers is not None and not decode:
        raise RGBXError("--workers are threads that decode, and --no-decode decodes nothing; leave one of them out")
    report = check_dataset(root, layout, split, decode, progress=True, workers=workers)
    click.echo(str(report))
    if file is not None:
        write_text(file, json.dumps(report.to_json(), indent=2) + "\n")
        click.echo(f"wrote {file}")
    if not report.ok:
        raise click.exceptions.Exit(1)


@data.command("render-events")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(["auto", "visevent", "coesot", "fe108"]), default="auto", show_default=True)
@click.option("--split", help="train, test or a list file; by default everything.")
@click.option(
    "--style",
    type=StyleChoice(["color", "gray"]),
    help="Red and blue on white, of the exposure; or three grays, of the time up to the next frame. By default gray "
    "for FE108, color for the others.",
)
@click.option("--first", type=click.IntRange(0), help="Frame of the recording that the first image is.")
@click.option("--overwrite", is_flag=True, help="Draw again where event images are.")
def render_events(
    root: Path, layout: str, split: str | None, style: str | None, first: int | None, overwrite: bool
) -> None:
    """Draw the events of .aedat4 recordings in ROOT, an image for each frame, where the layout has them."""
    from tracker.data.event_images import render_dataset

    with writing(root):
        written, failed = render_dataset(root, layout, split, style, first, overwrite, progress=True)
    click.echo(f"drew the events of {len(written)} sequences in {root}")
    for sentence in failed:
        click.echo(sentence)
    if failed:
        raise click.exceptions.Exit(1)
