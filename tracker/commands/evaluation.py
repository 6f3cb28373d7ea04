"""``rgbx eval``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.errors import RGBXError


@click.command("eval")
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Data set's folder; without it, generated sequences.")
@click.option("--results", type=click.Path(path_type=Path), help="Score these result files instead of a checkpoint.")
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train or test, where the data set has lists.")
@click.option(
    "--protocol",
    type=click.Choice(["auto", "lasher", "visevent", "gtot", "rgbt234"]),
    default="auto",
    show_default=True,
)
@click.option("--modality", type=click.Choice(["rgb", "thermal", "depth", "event"]), default="thermal")
@click.option("--count", type=click.IntRange(1), default=24, show_default=True, help="Generated sequences.")
@click.option("--length", type=click.IntRange(2), default=60, show_default=True, help="Frames of each of them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results, plots and the report.")
def evaluate(
    checkpoints: tuple[Path, ...],
    data: Path | None,
    results: Path | None,
    layout: str,
    split: str | None,
    protocol: str,
    modality: str,
    count: int,
    length: int,
    seed: int,
    out: Path | None,
) -> None:
    """Precision and success of checkpoints on a data set or on generated sequences, or of result files.

    CHECKPOINTS are files or names of shipped weights; several are compared.
    """
    from tracker.evaluation.report import text_table, write_report

    if results is not None:
        if checkpoints or data is None:
            raise RGBXError("--results scores files of boxes: give --data with the annotations, and no checkpoint")
        from tracker.evaluation import evaluate_folder

        metrics = [evaluate_folder(data, results, protocol, split=split, output=out)]
    else:
        if not checkpoints:
            raise RGBXError("nothing to evaluate: give one or more checkpoints, or --results with a folder of boxes")
        from tracker.train.assess import assess_checkpoints
        from tracker.train.sources import evaluation_sequences

        sequences = evaluation_sequences(data, layout, split, modality, count, length, seed)
        metrics = assess_checkpoints(checkpoints, sequences, protocol, out)
        if out is not None:
            write_report(metrics, out)
    click.echo(text_table(metrics))
    if out is not None:
        click.echo(f"wrote {out}")
