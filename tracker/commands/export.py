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
@click.option("--window/--no-window", default=None, help="Hann window in the graph; default: as the checkpoint has it.")
def onnx(checkpoint: Path, out: Path, precision: str, simplify: bool, window: bool | None) -> None:
    """Write CHECKPOINT as an ONNX file from crops of pixels to boxes; `rgbx track` runs it too."""
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
        path = export_onnx(network, out, settings, precision=precision, simplify=simplify)
    click.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
