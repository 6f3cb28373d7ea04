"""``rgbx view`` and ``rgbx compare``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tracker.commands.shared import refuse_idle, writing

if TYPE_CHECKING:
    from tracker.data.sequence import Sequence as FrameSequence
    from tracker.inference import Track
    from tracker.viewing import LiveWindow

PAGE = "page.html"
Command = TypeVar("Command", bound=Callable[..., None])
MOST_LINES = 12
"""Differences that are printed; the page has all."""


def of_a_page(command: Command) -> Command:
    """Add the options of the commands that write a page. :func:`_write` takes them."""
    for option in (
        click.option("--width", type=int, default=320, show_default=True, help="Of each of the two images, in pixels."),
        click.option("--max-mb", type=float, default=64.0, show_default=True, help="Above it, frames are left out."),
        click.option("--sequence", "names", multiple=True, help="Picture this one instead; may be repeated."),
        click.option("--pictures", type=int, default=8, show_default=True, help="Sequences with pictures."),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="The page, NAME.html."),
        click.option("--split", help="train or test, where the data set has lists."),
        click.option("--layout", default="auto", show_default=True),
        click.option("--data", type=click.Path(path_type=Path), required=True, help="Data set's folder."),
    ):
        command = option(command)
    return command


def of_tracking(command: Command) -> Command:
    """Add the options with which the command that tracks shows what it does."""
    for option in (
        click.option("--show", is_flag=True, help="Show the run in a window: space pauses, q closes it."),
        click.option("--page", is_flag=True, help="Also write OUT/page.html, see `rgbx view`."),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def live_window(show: bool) -> Iterator[LiveWindow | None]:
    """Yield a window if one was asked for. If no window can be opened, refuse before anything else is done."""
    if not show:
        yield None
        return
    from tracker.viewing import LiveWindow

    with LiveWindow() as window:
        yield window


def write_page_of_tracks(
    out: Path, sequences: Sequence[FrameSequence], tracks: Mapping[str, Mapping[str, Track]]
) -> None:
    """Write ``out/page.html`` for tracks in memory, given by label and then by sequence name."""
    from tracker.viewing import Record, Run, write_page

    runs = [
        Run(label, {name: Record.from_track(track) for name, track in found.items()}) for label, found in tracks.items()
    ]
    with writing(out):
        page = write_page(out / PAGE, sequences, runs, progress=True)
    click.echo(f"wrote {page.path} ({page.size / 1e6:.1f} MB)")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@of_a_page
def view(runs: tuple[Path, ...], **options: Any) -> None:
    """Write a page that shows runs on a data set: frames, boxes, curves, scores.

    RUNS are folders of result files, ours or another tracker's. The page is one file that opens in a browser without
    a server. Pictures are scaled JPEG images of the sequences with the lowest success.
    """
    _write(runs, compare=False, **options)


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@of_a_page
def compare(first: Path, second: Path, **options: Any) -> None:
    """Write a page that shows where two runs differ, the largest differences first.

    FIRST and SECOND are folders of result files. Pictures are of the sequences that differ most in success.
    """
    _write((first, second), compare=True, **options)


def _write(
    folders: tuple[Path, ...],
    *,
    compare: bool,
    data: Path,
    layout: str,
    split: str | None,
    out: Path,
    pictures: int,
    names: tuple[str, ...],
    max_mb: float,
    width: int,
) -> None:
    from tracker.data.layouts import open_dataset
    from tracker.viewing import PageSettings, difference_table, find_runs, write_page

    if names:
        refuse_idle("with --sequence, which names what is pictured", "pictures")
    settings = PageSettings(pictures, names, width, max_bytes=round(max_mb * 1e6))
    sequences = open_dataset(data, layout=layout, split=split, faulty_boxes="keep")
    runs = find_runs(folders, sequences)
    with writing(out):
        page = write_page(out, sequences, runs, settings, compare=compare, progress=True)
    if compare:
        click.echo(difference_table(runs, sequences, MOST_LINES))
    click.echo(f"wrote {page.path} ({page.size / 1e6:.1f} MB). {page.note}")
