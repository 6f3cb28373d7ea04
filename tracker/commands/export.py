"""``rgbx export``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import writing


@click.group()
def export() -> None:
    """Write a tracker for programs that have no PyTorch."""


@export.command("onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file, NAME.onnx.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option(
    "--simplify/--no-simplify", default=True, show_default=True, help="Fold constants and fuse nodes (onnxscript)."
)
@click.option("--whole-frames", is_flag=True, help="Cropping in the graph too: a frame and the last box in, a box out.")
@click.option("--window/--no-window", default=None, help="Hann window in the graph; default: as the checkpoint has it.")
def onnx(checkpoint: Path, out: Path, precision: str, simplify: bool, whole_frames: bool, window: bool | None) -> None:
    """Write CHECKPOINT as an ONNX file: from crops to boxes, which `rgbx track` runs too, or from whole frames."""
    from dataclasses import replace

    from tracker.export import export_onnx
    from tracker.inference import InferenceSettings
    from tracker.models.checkpoints import find_weights
    from tracker.tuning.files import load_tracker

    network, _, meta = load_tracker(find_weights(checkpoint))
    settings = InferenceSettings.from_meta(meta)
    if window is not None:
        settings = replace(settings, window=window)
    with writing(out):
        path = export_onnx(network, out, settings, precision=precision, simplify=simplify, whole_frames=whole_frames)
    click.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
