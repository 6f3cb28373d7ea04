"""``rgbx weights``: shows what is in a checkpoint, and converts its layout, sizes or number of streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracker.errors import RGBXError


@click.group()
def weights() -> None:
    """Look at checkpoints and convert them: ours, OSTrack's, DropTrack's, SRTrack's."""


heads_option = click.option(
    "--num-heads", type=click.IntRange(1), help="For published files with other than 64 channels a head."
)


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@heads_option
def show(file: Path, num_heads: int | None) -> None:
    """Say what FILE is, its sizes and parameters, and what it was made from.

    FILE may be the name of shipped weights (tiny_rgb). What it holds is found out from its content.
    """
    from tracker.models.checkpoints import find_weights
    from tracker.models.summary import summary
    from tracker.tuning.files import load_tracker

    path = find_weights(file)
    click.echo(summary(path.name, *load_tracker(path, merge=False, num_heads=num_heads)))


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option(
    "--kind",
    type=click.Choice(["single_stream", "two_stream"]),
    help="two_stream: both streams of an RGB-X tracker from an RGB tracker, as SRTrack starts.",
)
@click.option("--preset", help="Sizes of the crops, for instance vit_b_384; position embeddings are resized.")
@click.option(
    "--keep-ratio",
    type=click.FloatRange(0, 1, min_open=True),
    help="Candidate elimination: what is kept at OSTrack's layers (its own 0.7). A published file does not say.",
)
@heads_option
@click.option(
    "--layout",
    type=click.Choice(["rgbx", "published"]),
    default="rgbx",
    show_default=True,
    help="published: OSTrack's or SRTrack's, by the number of streams; .pth.tar or safetensors by --out.",
)
@click.option(
    "--base", type=click.Path(path_type=Path), help="Of a tuned FILE: the network that it was tuned from, if not found."
)
@click.option("--half", is_flag=True, help="Store in fp16; for --layout rgbx.")
def convert(
    file: Path,
    out: Path,
    kind: str | None,
    preset: str | None,
    keep_ratio: float | None,
    num_heads: int | None,
    layout: str,
    base: Path | None,
    half: bool,
) -> None:
    """Convert the checkpoint FILE (or shipped weights of that name) to OUT.

    The layout of FILE is found out from its content. A network in our format tells what it was made from. A tuned one
    becomes a file that needs no other: merged into a plain network where that is possible, else with its base.
    """
    from tracker.models.checkpoints import find_weights, save_published
    from tracker.models.checkpoints.conversion import converted
    from tracker.models.summary import summary
    from tracker.models.tracker import Tracker
    from tracker.tuning.files import converted_tuned, is_tuned, save_tracker

    if layout == "rgbx" and out.suffix != ".safetensors":
        raise RGBXError(f"--out {out} is not named .safetensors, which our format is; or give --layout published")
    if layout == "published" and half:
        raise RGBXError("--half is for --layout rgbx: the published code loads fp32")
    source = find_weights(file)
    if out.exists() and out.samefile(source):
        raise RGBXError(f"--out {out} is the file to convert; give another name")
    if is_tuned(source):
        if kind or preset:
            raise RGBXError(f"{source.name} is tuned: --kind and --preset are for the network that it was tuned from")
        network, config, meta = converted_tuned(source, base, keep_ratio, num_heads)
        if layout == "published" and not isinstance(network, Tracker):
            raise RGBXError(f"--layout published has no place for what tuning {network.method} adds; leave it out")
    elif base is not None:
        raise RGBXError(f"--base is for tuned networks, and {source.name} is none; leave it out")
    else:
        network, config, meta = converted(source, kind, preset, keep_ratio, num_heads)
    if layout == "published":
        assert isinstance(network, Tracker)
        save_published(out, network)
    else:
        save_tracker(out, network, meta, half=half, whole=True)
    shown: dict[str, Any] = meta if layout == "rgbx" else {}
    click.echo(summary(out.name, network, config, shown))
    click.echo(f"wrote {out}")
