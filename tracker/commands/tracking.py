"""``rgbx track``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.errors import RGBXError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--init-box", help="x,y,w,h of the target in the first frame; default: groundtruth's first line.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for boxes, overlay and figures.")
@click.option("--layout", default="auto", show_default=True)
@click.option("--overlay", type=click.Choice(["gif", "mp4", "none"]), default="gif", show_default=True)
def track(checkpoint: Path, folder: Path, init_box: str | None, out: Path, layout: str, overlay: str) -> None:
    """Follow a target through a folder of paired frames."""
    from tracker.evaluation.report import text_table
    from tracker.inference import InferenceSettings, track_folder
    from tracker.models.checkpoints import load_network
    from tracker.train.finetune import find_weights

    box = None if init_box is None else read_box(init_box)
    network, _, meta = load_network(find_weights(checkpoint))
    run = track_folder(
        folder,
        {checkpoint.stem: network},
        out,
        layout=layout,
        init_box=box,
        settings=InferenceSettings.from_meta(meta),
        overlay=None if overlay == "none" else overlay,
        progress=True,
    )
    if run.metrics:
        click.echo(text_table(run.metrics))
    for file in run.files:
        click.echo(f"wrote {file}")


def read_box(text: str) -> tuple[float, ...]:
    """``x,y,w,h`` as four numbers; their range is checked where the image is known."""
    try:
        box = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RGBXError(f'--init-box "{text}" is not a box; write it as x,y,w,h in pixels')
    return box
