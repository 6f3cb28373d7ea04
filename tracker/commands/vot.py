"""``rgbx vot``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import StyleChoice, refuse_idle
from tracker.errors import RGBXError

DEPTH_STYLE = click.option(
    "--depth-style", type=StyleChoice(["jet", "gray", "raw", "jet_bgr"]), help="Default: the checkpoint's own."
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")


@click.group()
def vot() -> None:
    """Compute DepthTrack's Pr, Re and F, and the EAO of VOT-RGBD2022 and VOT-RGBT2019, by the VOT toolkit."""


@vot.command()
@click.argument("workspace", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The benchmark's folder.")
@click.option("--benchmark", type=click.Choice(["depthtrack", "vot-rgbd2022", "vot-rgbt2019"]), required=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="File or name of shipped weights.")
@click.option("--name", help="Of the tracker in the toolkit; by default the checkpoint's.")
@click.option("--split", help="DepthTrack: test, or a list file; default: test if there is one, else everything.")
@DEPTH_STYLE
@DEVICE
def prepare(
    workspace: Path,
    data: Path,
    benchmark: str,
    checkpoint: Path,
    name: str | None,
    split: str | None,
    depth_style: str | None,
    device: str,
) -> None:
    """Set up WORKSPACE by links to a folder that is here already, or add a tracker to one.

    Nothing is downloaded, and nothing is copied but lists.
    """
    import re

    from tracker.models.checkpoints import find_weights
    from tracker.vot.workspace import BENCHMARKS, prepare_workspace, tracker_command

    if BENCHMARKS[benchmark].x != "depth":
        refuse_idle(f"for {benchmark}, whose X is infrared", "depth_style")
    weights = find_weights(checkpoint)
    label = name or re.sub(r"[^A-Za-z0-9_-]+", "_", weights.stem)
    command = tracker_command(weights, depth_style, device, BENCHMARKS[benchmark].x)
    sequences = prepare_workspace(workspace, data, benchmark, command, label, split=split)
    click.echo(f"{workspace}: {benchmark}, {len(sequences)} sequences, tracker {label}")
    click.echo(f"next: rgbx vot run {workspace}")


@vot.command()
@click.argument("workspace", type=click.Path(path_type=Path))
@click.argument("trackers", nargs=-1)
@click.option("--python", help="Interpreter that has vot-toolkit; default: RGBX_VOT_PYTHON, else this one.")
def run(workspace: Path, trackers: tuple[str, ...], python: str | None) -> None:
    """Evaluate, analyze and report TRACKERS of WORKSPACE (default: all); goes on where it was stopped."""
    from tracker.tables import aligned_table
    from tracker.vot.toolkit import benchmark_of, run_workspace

    figures = run_workspace(workspace, trackers, python=python)
    if not figures:
        raise RGBXError(f"the VOT toolkit's analysis of {workspace} has no figures; see {workspace / 'toolkit.log'}")
    names = list(next(iter(figures.values())))
    ranked = sorted(figures.items(), key=lambda item: -item[1][names[-1]])
    rows = [[tracker, *(f"{100 * values[name]:.1f}" for name in names)] for tracker, values in ranked]
    click.echo(f"{benchmark_of(workspace)}, by the VOT toolkit\n\n{aligned_table(['tracker', *names], rows)}")
    click.echo(f"wrote {workspace / 'analysis' / 'rgbx.json'} and {workspace / 'reports' / 'rgbx' / 'report.html'}")


@vot.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@DEPTH_STYLE
@DEVICE
@click.option("--channel", type=click.Choice(["depth", "ir"]), default="depth", show_default=True, help="Of X.")
def tracker(checkpoint: Path, depth_style: str | None, device: str, channel: str) -> None:
    """Answer the toolkit over TraX; the toolkit starts this itself, by WORKSPACE/trackers.ini."""
    from tracker.inference.online import OnlineTracker
    from tracker.inference.opening import open_engine
    from tracker.vot.trax_tracker import serve

    changed = {} if depth_style is None else {"depth_style": depth_style}
    engine, settings = open_engine(checkpoint, device, "fp32", "eager", changed)
    serve(OnlineTracker(engine, settings), checkpoint.stem, channel)
