"""``rgbx weights``: what is in a checkpoint, and from one layout, size or number of streams to another."""

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
    from tracker.models.checkpoints import find_weights, load_network
    from tracker.models.summary import summary

    path = find_weights(file)
    click.echo(summary(path.name, *load_network(path, num_heads=num_heads)))


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
@click.option("--half", is_flag=True, help="Store in fp16; for --layout rgbx.")
def convert(
    file: Path,
    out: Path,
    kind: str | None,
    preset: str | None,
    keep_ratio: float | None,
    num_heads: int | None,
    layout: str,
    half: bool,
) -> None:
    """Convert the checkpoint FILE (or shipped weights of that name) to OUT.

    The layout of FILE is found out from its content. A network in our format tells what it was made from.
    """
    from tracker.models.checkpoints import find_weights, save_network, save_published
    from tracker.models.checkpoints.conversion import converted
    from tracker.models.summary import summary

    if layout == "rgbx" and out.suffix != ".safetensors":
        raise RGBXError(f"--out {out} is not named .safetensors, which our format is; or give --layout published")
    if layout == "published" and half:
        raise RGBXError("--half is for --layout rgbx: the published code loads fp32")
    source = find_weights(file)
    if out.exists() and out.samefile(source):
        raise RGBXError(f"--out {out} is the file to convert; give another name")
    network, config, meta = converted(source, kind, preset, keep_ratio, num_heads)
    if layout == "published":
        save_published(out, network)
    else:
        save_network(out, network, config, meta, half=half)
    shown: dict[str, Any] = meta if layout == "rgbx" else {}
    click.echo(summary(out.name, network, config, shown))
    click.echo(f"wrote {out}")
