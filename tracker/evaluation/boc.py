"""COESOT's BOC: success where others fail counts more.

BOC (Tang et al., "Revisiting color-event based tracking", 2022) is the mean over videos of a tracker's SR on the video
times the video's weight, 1 less the mean SR of fixed baselines on it. The published figures weigh by 15 baselines whose
results are not part of this project, so they are given by whoever has them, as

- a folder with a folder of result files for every baseline;
- the toolkit's curves, ``aveSuccessRatePlot_15alg_overlap_OPE.mat``, whose videos are in the order of the split's list;
- a CSV file with a header: the sequence first, then the SR of every baseline, from 0 to 1.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.metrics import Metrics


def weights_from_scores(scores: Mapping[str, ListLike[float]]) -> dict[str, float]:
    """Turn the SR of every baseline on each sequence into the sequences' weights.

    Raises:
        RGBXError: no baseline, different numbers of them, or an SR outside [0, 1].
    """
    counts = {len(values) for values in scores.values()}
    if len(counts) != 1 or 0 in counts:
        raise RGBXError("the baselines' SR are not a full table; expected one for every baseline and sequence")
    weights = {}
    for name, values in scores.items():
        if not all(0.0 <= value <= 1.0 for value in values):
            raise RGBXError(f"an SR of a baseline on {name} lies outside [0, 1]; give fractions, not percentages")
        weights[name] = 1.0 - float(np.mean(values))
    return weights


def read_weights(
    path: str | Path, sequences: ListLike[str], evaluate_baseline: Callable[[Path], Metrics]
) -> dict[str, float]:
    """Read the weights of sequences from what there is of the baselines, see the module.

    Args:
        path: the folder or file, see the module.
        sequences: names, in the order of the split's list.
        evaluate_baseline: evaluates a folder of result files.

    Raises:
        RGBXError: nothing usable there, or a sequence without a weight.
    """
    path = Path(path)
    if path.is_dir():
        folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise RGBXError(f"{path} has no folders; expected one with the result files of every baseline")
        found = [{s.name: s.scores["SR"] for s in evaluate_baseline(folder).sequences} for folder in folders]
        weights = weights_from_scores({name: [scores[name] for scores in found] for name in sequences})
    elif path.suffix == ".mat":
        weights = weights_from_scores(_read_curves(path, sequences))
    else:
        weights = weights_from_scores(_read_csv(path))
    absent = [name for name in sequences if name not in weights]
    if absent:
        raise RGBXError(
            f"{path} has no SR for {len(absent)} of {len(sequences)} sequences ({', '.join(absent[:5])}); BOC weighs "
            "every video"
        )
    return weights


def _read_csv(path: Path) -> dict[str, list[float]]:
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
        return {row[0].strip(): [float(value) for value in row[1:]] for row in rows[1:]}
    except (OSError, ValueError) as error:
        raise RGBXError(
            f"cannot read the baselines' SR from {path} ({error}); expected a CSV file with a header, the sequence "
            "first and then one SR for every baseline"
        ) from error


def _read_curves(path: Path, sequences: ListLike[str]) -> dict[str, list[float]]:
    from scipy.io import loadmat

    try:
        curves = np.asarray(loadmat(path)["ave_success_rate_plot"], dtype=np.float64)
    except Exception as error:  # scipy raises whatever the file's bytes lead it to
        raise RGBXError(
            f"{path} holds no ave_success_rate_plot; expected the COESOT toolkit's success curves"
        ) from error
    if curves.ndim != 3 or curves.shape[1] != len(sequences):
        raise RGBXError(
            f"{path} has curves of shape {curves.shape}; expected (baselines, {len(sequences)}, 21): one for every "
            "sequence of the split, in its order"
        )
    return {name: curves[:, k].mean(axis=1).tolist() for k, name in enumerate(sequences)}


def add_boc(metrics: Metrics, weights: Mapping[str, float]) -> Metrics:
    """Return the metrics with the score ``BOC`` added.

    Raises:
        RGBXError: another protocol than COESOT's, or a sequence without a weight.
    """
    if metrics.protocol != "coesot":
        raise RGBXError(f"BOC belongs to COESOT's protocol, not to {metrics.protocol}")
    absent = [s.name for s in metrics.sequences if s.name not in weights]
    if absent:
        raise RGBXError(f"no weight for {len(absent)} sequences ({', '.join(absent[:5])}); BOC weighs every video")
    boc = float(np.mean([s.scores["SR"] * weights[s.name] for s in metrics.sequences]))
    return replace(metrics, scores={**metrics.scores, "BOC": boc})
