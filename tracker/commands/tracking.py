"""``rgbx track``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracker.commands.shared import StyleChoice, refuse_idle
from tracker.commands.viewing import live_window, of_tracking, write_page_of_tracks
from tracker.errors import RGBXError

if TYPE_CHECKING:
    from tracker.inference import Engine, InferenceSettings

SETTINGS = (
    "missing",
    "lost_below",
    "found_above",
    "patience",
    "search_growth",
    "template_update",
    "template_confidence",
    "template_share",
    "depth_style",
    "event_style",
    "thermal_style",
    "thermal_range",
)
"""Options that are fields of InferenceSettings; where they are not given, the checkpoint's own are taken."""


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--rgb", help="In place of FOLDER: a video file, or camera:0.")
@click.option("--x", help="The other half: a video file, or camera:1; without it X is missing.")
@click.option("--pairing", type=click.Choice(["auto", "index", "time"]), default="auto", show_default=True,
              help="Of two videos; auto: by time where their frame rates differ.")  # fmt: skip
@click.option("--modality", type=click.Choice(["thermal", "depth", "event"]), help="What the X of a video is.")
@click.option("--frames", type=click.IntRange(1), help="Stop a video or camera after as many.")
@click.option("--init-box", help="x,y,w,h of the target in the first frame; default: groundtruth's first line.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for boxes, overlay and figures.")
@click.option("--layout", default="auto", show_default=True)
@click.option("--all", "whole_set", is_flag=True, help="FOLDER holds a data set: track every sequence of it.")
@click.option("--split", help="Of the data set: train or test, where it has lists.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Sequences in one forward pass.")
@click.option("--shard", help="k/n, k from 0: of a data set only every n-th sequence, from the k-th on.")
@click.option("--overwrite", is_flag=True, help="Track sequences again whose results are there.")
@click.option("--overlay", type=click.Choice(["gif", "mp4", "none"]), help="Default: gif of a folder, mp4 of a video.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--engine", type=click.Choice(["eager", "compiled", "graph"]), default="eager", show_default=True,
              help="compiled: torch.compile; graph: a CUDA graph. An .onnx file runs in ONNX Runtime.")  # fmt: skip
@click.option("--missing", type=click.Choice(["hold", "mean", "mirror"]), help="Stand-in for missing RGB or X.")
@click.option("--drop-rgb", help="Frames whose RGB is taken away: 10-20,35 or 10- or 0-/2.")
@click.option("--drop-x", help="The same of X.")
@click.option("--lost-below", type=float, help="The target counts as lost after --patience scores below this,")
@click.option("--found-above", type=float, help="and as found again with one of at least this.")
@click.option("--patience", type=int)
@click.option("--search-growth", type=float, help="Factor on the search region for each frame lost; up to 2 times.")
@click.option("--template-update", type=int, help="Frames between two updates of the template; 0: none.")
@click.option("--template-confidence", type=float, help="Score that an update waits for.")
@click.option("--depth-style", type=StyleChoice(["jet", "gray", "raw", "jet_bgr"]), help="Of 16-bit depth.")
@click.option("--event-style", type=StyleChoice(["color", "gray"]), help="Of stored events.")
@click.option("--thermal-style", type=click.Choice(["minmax", "percentile", "fixed"]),
              help="Of thermal images of more than 8 bits.")  # fmt: skip
@click.option("--thermal-range", type=(float, float), help="Raw values of black and white, for fixed.")
@click.option("--template-share", type=float, help="Of the new crop in the template; 1 replaces it.")
@of_tracking
def track(
    checkpoint: Path,
    folder: Path | None,
    rgb: str | None,
    x: str | None,
    init_box: str | None,
    out: Path,
    whole_set: bool,
    overlay: str | None,
    device: str,
    precision: str,
    engine: str,
    drop_rgb: str | None,
    drop_x: str | None,
    **options: Any,
) -> None:
    """Follow a target through a folder of paired frames, two videos or two cameras, or through a whole data set.

    CHECKPOINT is a file, the name of shipped weights, or an ONNX file of `rgbx export onnx`.
    """
    from tracker.inference.missing import parse_ranges
    from tracker.inference.opening import open_engine

    if (folder is None) == (rgb is None):
        raise RGBXError("give either a folder of frames, or --rgb (and --x) with videos or cameras")
    if whole_set and folder is None:
        raise RGBXError("--all tracks the data set in a folder; videos and cameras are tracked one at a time")
    if x is not None and rgb is None:
        raise RGBXError("--x is the other half of --rgb; give both, or a folder")
    refuse_without_effect(rgb is not None, x is not None, whole_set, overlay)
    box = None if init_box is None else read_box(init_box)
    drops: dict[str, Any] = {
        "drop_rgb": parse_ranges(drop_rgb) if drop_rgb else [],
        "drop_x": parse_ranges(drop_x) if drop_x else [],
    }
    changed = {name: options.pop(name) for name in SETTINGS}
    changed = {name: value for name, value in changed.items() if value is not None}
    if changed.get("thermal_style", "fixed") != "fixed":
        changed.setdefault("thermal_range", None)  # the checkpoint's belongs to the style that is replaced
    runner, settings = open_engine(checkpoint, device, precision, engine, changed)
    if rgb is not None:
        _track_stream(runner, settings, rgb, x, box, out, overlay, drops, options)
    elif whole_set:
        if box is not None or any(drops.values()):
            raise RGBXError("--init-box, --drop-rgb and --drop-x are for one sequence; leave them out, or --all")
        assert folder is not None
        _track_dataset(runner, settings, folder, out, options)
    else:
        assert folder is not None
        _track_folder(runner, settings, checkpoint.stem, folder, box, out, overlay, drops, options)


def _track_folder(
    runner: Engine,
    settings: InferenceSettings,
    label: str,
    folder: Path,
    box: tuple[float, ...] | None,
    out: Path,
    overlay: str | None,
    drops: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from tracker.evaluation.report import text_table
    from tracker.inference import track_folder
    from tracker.inference.speed import speed_line

    with live_window(options["show"]) as window:
        run = track_folder(
            folder,
            runner,
            out,
            layout=options["layout"],
            init_box=box,
            settings=settings,
            overlay=None if overlay == "none" else overlay or "gif",
            progress=True,
            watch=None if window is None else window.watch,
            label=label,
            **drops,
        )
    if run.metrics:
        click.echo(text_table(run.metrics))
    click.echo(speed_line(run.speed[label]))
    for file in run.files:
        click.echo(f"wrote {file}")
    if options["page"]:
        tracks = {name: {run.sequence.name: track} for name, track in run.tracks.items()}
        write_page_of_tracks(out, [run.sequence], tracks)


def _track_stream(
    runner: Engine,
    settings: InferenceSettings,
    rgb: str,
    x: str | None,
    box: tuple[float, ...] | None,
    out: Path,
    overlay: str | None,
    drops: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from tracker.inference import PairedCapture, track_stream
    from tracker.inference.selection import select_box
    from tracker.inference.speed import speed_line, speed_summary

    if overlay == "gif":
        raise RGBXError("a video's or camera's overlay is written while it runs, as mp4; give --overlay mp4 or none")
    if options["page"]:
        raise RGBXError("--page reads frames again, which only folders allow; a video or camera has --overlay mp4")
    with (
        live_window(options["show"]) as window,
        PairedCapture(rgb, x, options["pairing"], options["modality"] or "X") as source,
    ):
        if x is not None:
            click.echo(f"frames of {rgb} and {x} are paired by {source.pairing}", err=True)
        found = track_stream(
            runner,
            source,
            box,
            settings,
            select=select_box,
            output=out,
            overlay=overlay != "none",
            most_frames=options["frames"],
            watch=None if window is None else window.watch,
            **drops,
        )
    click.echo(speed_line(speed_summary([found])))
    click.echo(f"wrote {len(found.boxes)} boxes to {out / (found.name + '.txt')}")


def _track_dataset(
    runner: Engine, settings: InferenceSettings, folder: Path, out: Path, options: dict[str, Any]
) -> None:
    from tracker.data.layouts import open_dataset
    from tracker.inference import track_dataset
    from tracker.inference.speed import speed_line, speed_summary

    if options["show"]:
        raise RGBXError("--show has one window for one sequence; leave out --all, or look at the run with --page")
    sequences = open_dataset(
        folder, layout=options["layout"], split=options["split"], faulty_boxes="keep", style=settings.rendering
    )
    first, stride = read_shard(options["shard"] or "0/1")
    sequences = sequences[first::stride]
    tracks = track_dataset(
        runner, sequences, out, settings, batch=options["batch"], overwrite=options["overwrite"], label=runner.name
    )
    line = speed_line(speed_summary(tracks.values()))
    if line:
        click.echo(line)
    click.echo(f"wrote results of {len(tracks)} sequences to {out}")
    if options["page"]:
        write_page_of_tracks(out, sequences, {runner.name: tracks})


def refuse_without_effect(stream: bool, paired: bool, whole_set: bool, overlay: str | None) -> None:
    """Refuse options that do nothing for what is tracked.

    Raises:
        RGBXError: such an option was given.
    """
    of_sets, of_streams = ("split", "batch", "shard", "overwrite"), ("pairing", "modality", "frames")
    if stream:
        styles = ("depth_style", "event_style", "thermal_style", "thermal_range")
        refuse_idle("for videos and cameras", "layout", *of_sets, *styles)
        if not paired:
            refuse_idle("without --x", "pairing", "modality")
    elif whole_set:
        refuse_idle("for a data set, which is on disk", *of_streams)
        if overlay != "none":
            refuse_idle("for a data set; --page shows its runs", "overlay")
    else:
        refuse_idle("for one folder of frames; it is for a data set (--all)", *of_sets)
        refuse_idle("for a folder of frames; it is for videos and cameras", *of_streams)


def read_box(text: str) -> tuple[float, ...]:
    """Read ``x,y,w,h`` as four numbers. Their range is checked later, when the image is known."""
    try:
        box = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RGBXError(f'--init-box "{text}" is not a box; write it as x,y,w,h in pixels')
    return box


def read_shard(text: str) -> tuple[int, int]:
    """Read ``k/n`` as the first sequence and the stride."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise RGBXError(f'--shard "{text}" is not one; write k/n with k from 0 to n - 1, for instance 0/4')
    return int(index), int(count)
