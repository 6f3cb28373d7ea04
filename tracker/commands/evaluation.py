"""``rgbx eval``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracker.commands.shared import refuse_idle
from tracker.errors import RGBXError

if TYPE_CHECKING:
    from tracker.evaluation import Metrics

PROTOCOLS = ("lasher", "rgbt234", "rgbt210", "gtot", "visevent", "coesot", "fe108", "depthtrack", "vtuav")


GENERATED = ("modality", "count", "length", "seed")
"""Options of the generated sequences that stand in for a data set."""


@click.command("eval")
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Data set's folder; without it, generated sequences.")
@click.option(
    "--results",
    multiple=True,
    metavar="[NAME=]FOLDER",
    help="Score these result files instead of a checkpoint; several trackers: give it several times.",
)
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train or test, where the data set has lists; with --results also a list file.")
@click.option("--protocol", type=click.Choice(["auto", *PROTOCOLS]), default="auto", show_default=True)
@click.option("--attributes", type=click.Path(path_type=Path), help="Attribute files, or a CSV: figures for each.")
@click.option(
    "--baselines",
    type=click.Path(path_type=Path),
    help="COESOT's BOC: baselines' result folders, SR as CSV, or the toolkit's curves (.mat).",
)
@click.option("--published", type=click.Path(path_type=Path), help="CSV of published figures to compare with.")
@click.option("--per-sequence", is_flag=True, help="Also print every sequence.")
@click.option("--allow-missing", is_flag=True, help="Leave out sequences without a result file.")
@click.option("--modality", type=click.Choice(["rgb", "thermal", "depth", "event"]), default="thermal")
@click.option("--count", type=click.IntRange(1), default=24, show_default=True, help="Generated sequences.")
@click.option("--length", type=click.IntRange(2), default=60, show_default=True, help="Frames of each of them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results, plots and the report.")
def evaluate(
    checkpoints: tuple[Path, ...],
    data: Path | None,
    results: tuple[str, ...],
    layout: str,
    split: str | None,
    protocol: str,
    attributes: Path | None,
    baselines: Path | None,
    published: Path | None,
    per_sequence: bool,
    allow_missing: bool,
    modality: str,
    count: int,
    length: int,
    seed: int,
    out: Path | None,
) -> None:
    """Print figures of checkpoints or of result files, by a benchmark's protocol.

    CHECKPOINTS are files or names of shipped weights. They are run on a data set or on generated sequences, and several
    are compared.
    """
    from tracker.evaluation.attributes import read_attributes, score_attributes
    from tracker.evaluation.published import read_published
    from tracker.evaluation.report import text_table, write_report

    figures = None if published is None else read_published(published)
    if results:
        if checkpoints or data is None:
            raise RGBXError("--results scores files of boxes: give --data with the annotations, and no checkpoint")
        refuse_idle("with --results", "layout", *GENERATED)
        metrics = evaluate_results(data, results, protocol, split, allow_missing)
    else:
        if not checkpoints:
            raise RGBXError("nothing to evaluate: give one or more checkpoints, or --results with a folder of boxes")
        refuse_idle("without --results: a checkpoint is run on every sequence", "allow_missing")
        if data is None:
            refuse_idle("without --data", "layout")
        else:
            refuse_idle("with --data: it is for generated sequences", *GENERATED)
        from tracker.train.assess import assess_checkpoints
        from tracker.train.configured_data import evaluation_sequences

        reason = ""
        if protocol == "auto" and data is not None:
            protocol, reason = recognized(data, split)
        chosen = partial(evaluation_sequences, data, layout, split, modality, count, length, seed)
        metrics = assess_checkpoints(checkpoints, chosen, protocol, out)
        metrics = [replace(m, protocol_reason=reason or m.protocol_reason) for m in metrics]
    if baselines is not None:
        metrics = with_boc(metrics, baselines, data, split)
    table = None
    if attributes is not None:
        names = [s.name for s in metrics[0].sequences]
        table = score_attributes(metrics, read_attributes(attributes, names, metrics[0].protocol))
    text = text_table(metrics, per_sequence=per_sequence, attributes=table, published=figures)
    if out is not None:
        write_report(metrics, out, attributes=table, published=figures)
    click.echo(text)
    if out is not None:
        click.echo(f"wrote {out}")


def evaluate_results(
    data: Path, results: tuple[str, ...], protocol: str, split: str | None, allow_missing: bool
) -> list[Metrics]:
    """Evaluate one tracker for each folder. It is named after the folder, or as ``NAME=FOLDER`` says."""
    from tqdm import tqdm

    from tracker.evaluation import evaluate_folder

    folders: dict[str, Path] = {}
    for text in results:
        label, _, folder = text.rpartition("=")
        if Path(text).is_dir():
            label, folder = "", text
        name = label or Path(folder).resolve().name
        if name in folders:
            raise RGBXError(f"two trackers are named {name}; tell them apart with --results NAME={folder}")
        folders[name] = Path(folder)
    found: list[Metrics] = []
    for name, place in tqdm(folders.items(), desc="evaluate", unit="tracker", disable=len(folders) < 2):
        metrics = evaluate_folder(data, place, protocol, tracker=name, split=split, allow_missing=allow_missing)
        protocol = metrics.protocol
        found.append(metrics)
    return found


def recognized(data: Path, split: str | None) -> tuple[str, str]:
    """Return the protocol that a data set's annotations belong to, and the reason. It is ``auto`` if none is known."""
    from tracker.evaluation.annotations import choose_sequences
    from tracker.evaluation.recognition import NOTHING_TELLS, recognize_protocol

    try:
        told = recognize_protocol(choose_sequences(data, split))
    except RGBXError:
        return "auto", ""  # validation splits and one's own folders; opening the sequences says what is wrong
    return ("auto", "") if told.reason == NOTHING_TELLS else told


def with_boc(metrics: list[Metrics], baselines: Path, data: Path | None, split: str | None) -> list[Metrics]:
    """Return the same metrics with COESOT's BOC, weighted by baselines."""
    from tracker.evaluation import evaluate_folder
    from tracker.evaluation.boc import add_boc, read_weights

    if data is None:
        raise RGBXError("--baselines belong to COESOT: give --data with its annotations")
    evaluate_baseline = partial(evaluate_folder, data, protocol="coesot", split=split)
    weights = read_weights(baselines, [s.name for s in metrics[0].sequences], evaluate_baseline)
    return [add_boc(m, weights) for m in metrics]
