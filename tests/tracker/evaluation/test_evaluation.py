"""Protocols against a slow scalar implementation, hand-computed cases, and published figures."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError
from tracker.evaluation import (
    LasHeROptions,
    Metrics,
    evaluate,
    evaluate_folder,
    read_boxes,
    write_boxes,
    write_report,
)
from tracker.evaluation.gtot import best_of_two, mean_of_sequences, pool_frames
from tracker.evaluation.lasher import mean_over_sequences, score_sequence
from tracker.evaluation.plots import plot_curves
from tracker.evaluation.report import markdown_report, text_table

IOUS = [0.05 * k for k in range(21)]
PIXELS = [float(k) for k in range(51)]
NORMALIZED = [0.01 * k for k in range(51)]

# ---- the slow truth, one frame and one threshold at a time, in the toolkits' own last-pixel arithmetic


def scalar_iou(a: list[float], b: list[float]) -> float:
    if any(math.isnan(v) for v in [*a, *b]):
        return math.nan
    width = min(a[0] + a[2] - 1, b[0] + b[2] - 1) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3] - 1, b[1] + b[3] - 1) - max(a[1], b[1]) + 1
    inside = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inside
    return inside / union if union else math.nan


def scalar_errors(a: list[float], b: list[float]) -> tuple[float, float]:
    dx = (a[0] + (a[2] - 1) / 2) - (b[0] + (b[2] - 1) / 2)
    dy = (a[1] + (a[3] - 1) / 2) - (b[1] + (b[3] - 1) / 2)
    if b[2] == 0 or b[3] == 0:
        return math.hypot(dx, dy), math.nan
    return math.hypot(dx, dy), math.hypot(dx / b[2], dy / b[3])


def scalar_lasher(
    results: np.ndarray, truth: np.ndarray, absent: str
) -> tuple[list[float], list[float], list[float], list[float]]:
    """PR, NPR and SR curves of one sequence, and every error, for the caller to look for ties."""
    boxes = [list(map(float, row)) for row in results[: len(truth)]]
    wanted = [list(map(float, row)) for row in truth]
    boxes[0] = wanted[0]
    for i in range(1, len(boxes)):
        broken = any(math.isnan(v) for v in boxes[i]) or boxes[i][2] <= 0 or boxes[i][3] <= 0
        if broken and not any(math.isnan(v) for v in wanted[i]):
            boxes[i] = boxes[i - 1]
    errors, normalized, overlaps, seen = [], [], [], []
    for box, target in zip(boxes, wanted, strict=True):
        if all(v > 0 for v in target):
            pair = scalar_errors(box, target)
            errors.append(pair[0])
            normalized.append(pair[1])
            overlaps.append(scalar_iou(box, target))
            seen += [pair[0], pair[1] * 100]
        elif absent == "lasher":
            errors.append(-1.0)
            normalized.append(-1.0)
            overlaps.append(-1.0)
    count = len(overlaps) if absent == "excluded" else len(wanted)
    count = max(count, 1)
    return (
        [sum(e <= t for e in errors) / count for t in PIXELS],
        [sum(e <= t for e in normalized) / count for t in NORMALIZED],
        [sum(o > t for o in overlaps) / count for t in IOUS],
        seen,
    )


quarter = st.integers(-40, 400).map(lambda v: v / 4)
side = st.one_of(st.integers(1, 200).map(lambda v: v / 4), st.sampled_from([0.0, -1.0, math.nan]))
result_box = st.tuples(quarter, quarter, side, side)
truth_box = st.one_of(
    st.tuples(quarter, quarter, st.integers(1, 200).map(lambda v: v / 4), st.integers(1, 200).map(float)),
    st.sampled_from([(0.0, 0.0, 0.0, 0.0), (math.nan,) * 4, (5.0, 5.0, 0.0, 3.0)]),
)


@settings(max_examples=150, deadline=None)
@given(
    pairs=st.lists(st.tuples(result_box, truth_box), min_size=1, max_size=12),
    surplus=st.integers(0, 2),
    absent=st.sampled_from(["lasher", "excluded", "failure"]),
)
def test_lasher_equals_the_scalar_implementation(
    pairs: list[tuple[tuple[float, ...], tuple[float, ...]]], surplus: int, absent: str
) -> None:
    truth = np.array([t for _, t in pairs])
    results = np.array([r for r, _ in pairs] + [(1.0, 1.0, 1.0, 1.0)] * surplus)
    precision, normalized, success, seen = scalar_lasher(results, truth, absent)
    # A tie that is decided by the last bit of a root has no truth.
    assume(all(v == round(v) or abs(v - round(v)) > 1e-9 for v in seen if not math.isnan(v)))
    before = results.copy()
    scores = score_sequence("s", results, truth, LasHeROptions(absent=absent))  # type: ignore[arg-type]
    np.testing.assert_array_equal(results, before)
    np.testing.assert_array_equal(scores.curves["precision"].values, precision)
    np.testing.assert_array_equal(scores.curves["success"].values, success)
    np.testing.assert_allclose(scores.curves["normalized_precision"].values, normalized, rtol=0, atol=0)
    assert scores.scores["PR"] == precision[20]
    assert scores.scores["NPR"] == normalized[20]
    assert scores.scores["SR"] == pytest.approx(sum(success) / 21, abs=1e-15)
    valid = (truth > 0).all(axis=1)
    assert scores.absent == int((~valid).sum())


PERFECT = np.array([[10.0, 10, 20, 20]] * 4)


@pytest.mark.parametrize(
    ("absent", "pr", "sr"),
    [("lasher", 1.0, 0.75 * 20 / 21), ("failure", 0.75, 0.75 * 20 / 21), ("excluded", 1.0, 20 / 21)],
)
def test_an_absent_frame_counts_as_the_option_says(absent: str, pr: float, sr: float) -> None:
    truth = PERFECT.copy()
    truth[2] = 0
    options = LasHeROptions(absent=absent)  # type: ignore[arg-type]
    scores = score_sequence("s", PERFECT, truth, options).scores
    assert scores["PR"] == pytest.approx(pr)
    assert scores["NPR"] == pytest.approx(pr)
    assert scores["SR"] == pytest.approx(sr)


def test_first_result_is_replaced_and_broken_results_copy_the_one_before() -> None:
    results = PERFECT.copy()
    results[0] = [500, 500, 1, 1]
    results[1] = [0, 0, 0, 0]
    results[2] = np.nan
    assert score_sequence("s", results, PERFECT).scores["PR"] == 1.0
    kept = score_sequence("s", results, PERFECT, LasHeROptions(first_frame=False))
    assert kept.scores["PR"] == 0.25


def test_thresholds_are_at_most_for_errors_and_strictly_above_for_overlap() -> None:
    truth = np.array([[10.0, 10, 20, 20]] * 2)
    off_20 = np.array([[10.0, 10, 20, 20], [30, 10, 20, 20]])
    assert score_sequence("s", off_20, truth).scores["PR"] == 1.0
    assert score_sequence("s", off_20 * [[1], [1.001]], truth).scores["PR"] == 0.5
    half = np.array([[10.0, 10, 20, 20], [10, 10, 20, 10]])
    success = score_sequence("s", half, truth).curves["success"]
    assert success.at(0.45) == 1.0
    assert success.at(0.5) == 0.5


def test_sequences_count_alike_whatever_their_length() -> None:
    good = score_sequence("good", PERFECT, PERFECT)
    far = np.array([[10.0, 10, 20, 20]] + [[300.0, 300, 20, 20]] * 99)
    bad = score_sequence("bad", far, np.array([[10.0, 10, 20, 20]] * 100))
    assert mean_over_sequences([good, bad]).scores["PR"] == pytest.approx((1 + 0.01) / 2)


def test_drop_zero_leaves_hopeless_sequences_out_of_the_mean() -> None:
    options = LasHeROptions(absent="failure", drop_zero=True, first_frame=False)
    good = score_sequence("good", PERFECT, PERFECT, options)
    lost = score_sequence("lost", PERFECT + 900, PERFECT, options)
    assert mean_over_sequences([good, lost], options).scores["PR"] == 1.0
    assert mean_over_sequences([good, lost]).scores["PR"] == 0.5


def test_too_few_results_are_refused() -> None:
    with pytest.raises(RGBXError, match=r"car: 3 results for 4"):
        score_sequence("car", PERFECT[:3], PERFECT)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.tuples(quarter, quarter, st.integers(1, 99), st.integers(1, 99))] * 3),
        min_size=2,
        max_size=15,
    )
)
def test_pooled_and_averaged_maxima_equal_the_scalar_implementation(
    rows: list[tuple[tuple[float, ...], ...]],
) -> None:
    cut = max(1, len(rows) // 3)
    errors: list[list[float]] = []
    overlaps: list[list[float]] = []
    parts = []
    for k, part in enumerate((rows[:cut], rows[cut:])):
        result, visible, infrared = (np.array([r[j] for r in part], dtype=float) for j in range(3))
        parts.append(best_of_two(f"s{k}", result, visible, infrared))
        errors.append([min(scalar_errors(list(r), list(v))[0], scalar_errors(list(r), list(i))[0]) for r, v, i in part])
        overlaps.append([max(scalar_iou(list(r), list(v)), scalar_iou(list(r), list(i))) for r, v, i in part])
    flat_errors = list(itertools.chain(*errors))
    flat_overlaps = list(itertools.chain(*overlaps))
    assume(all(e == round(e) or abs(e - round(e)) > 1e-9 for e in flat_errors))
    pooled = pool_frames(parts).scores
    assert pooled["MPR"] == pytest.approx(sum(e < 5 for e in flat_errors) / len(rows), abs=1e-12)
    rates = [sum(o > t for o in flat_overlaps) / len(rows) for t in IOUS]
    area = sum((a + b) / 2 * 0.05 for a, b in itertools.pairwise(rates))
    assert pooled["MSR"] == pytest.approx(area, abs=1e-12)
    averaged = mean_of_sequences(parts).scores
    expected = sum(sum(e <= 20 for e in es) / len(es) for es in errors) / 2
    assert averaged["MPR"] == pytest.approx(expected, abs=1e-12)
    expected = sum(sum(sum(o > t for o in os) / len(os) for t in IOUS) / 21 for os in overlaps) / 2
    assert averaged["MSR"] == pytest.approx(expected, abs=1e-12)


# ---- published figures


def test_patrack_on_gtot_gives_its_published_figures(shared_data: Path) -> None:
    gtot = shared_data / "gtot"
    metrics = evaluate_folder(gtot / "groundtruth", gtot / "results_patrack", tracker="PATrack")
    assert metrics.protocol == "gtot"
    assert (len(metrics.sequences), metrics.frames) == (50, 7850)
    assert round(100 * metrics.scores["MPR"], 1) == 92.4
    assert round(100 * metrics.scores["MSR"], 1) == 78.3


def test_gtot_without_rounding_differs_and_the_list_file_of_the_set_is_read(shared_data: Path) -> None:
    gtot = shared_data / "gtot"
    raw = evaluate_folder(gtot, gtot / "results_patrack", split=str(gtot / "SequencesName.txt"), round_results=False)
    assert round(100 * raw.scores["MPR"], 1) == 92.6
    assert round(100 * raw.scores["MSR"], 1) == 78.0


# ---- files


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", "  ", ";"])
def test_every_separator_is_read(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(separator.join(["1", "2.5", "3e1", "nan"]) for _ in range(2)) + "\n\n")
    np.testing.assert_array_equal(read_boxes(file), [[1, 2.5, 30, np.nan]] * 2)


def test_eight_values_are_corners_and_are_rounded_before_subtraction(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("10.6,20.4,40.4,20.4,40.4,50.7,10.6,50.7\r\n")
    np.testing.assert_allclose(read_boxes(file), [[10.6, 20.4, 29.8, 30.3]])
    np.testing.assert_array_equal(read_boxes(file, round_values=True), [[11, 20, 29, 31]])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,2,3,4\n1,2,3\n", 2),
        ("1,2,3,4\n\n1,2,3,4\n", 2),
        ("1,2,x,4\n", 1),
        ("1,2,3,4\n1,2,3,4\n1,2,3,4,5,6,7,8\n", 3),
        ("1,,3,4\n", 1),
        ("1,2,3,4,\n", 1),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "car.txt"
    file.write_text(text)
    with pytest.raises(RGBXError, match=rf"car\.txt, line {line}:"):
        read_boxes(file)


def test_missing_empty_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RGBXError, match="cannot read"):
        read_boxes(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(RGBXError, match="is empty"):
        read_boxes(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x80\x00")
    with pytest.raises(RGBXError, match="not a text file"):
        read_boxes(tmp_path / "binary.txt")


def test_written_results_read_back_and_keep_the_published_format(tmp_path: Path) -> None:
    boxes = np.array([[1.25, 2, 3, 4], [np.nan] * 4, [1 / 3, 2, 3, 4]])
    write_boxes(tmp_path / "r.txt", boxes)
    lines = (tmp_path / "r.txt").read_text().splitlines()
    assert lines[0] == "1.25000000000000,2.00000000000000,3.00000000000000,4.00000000000000"
    back = read_boxes(tmp_path / "r.txt")
    np.testing.assert_allclose(back[[0, 2]], boxes[[0, 2]], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(back[1], 0)
    assert [p.name for p in tmp_path.iterdir()] == ["r.txt"]


# ---- folders


def lasher_folder(root: Path, names: list[str], truth: np.ndarray) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        np.savetxt(root / name / "visible.txt", truth, fmt="%g", delimiter=",")
    return root


def test_a_folder_of_results_is_scored_with_prefixes_splits_and_gaps(tmp_path: Path) -> None:
    data = lasher_folder(tmp_path / "data", ["a", "b", "c"], PERFECT)
    (data / "testingsetList.txt").write_text("a\nb\n")
    results = tmp_path / "results"
    results.mkdir()
    write_boxes(results / "a.txt", PERFECT)
    write_boxes(results / "Tracker_b.txt", PERFECT + np.array([[100.0, 0, 0, 0]]))
    with pytest.raises(RGBXError, match=r"no result for 1 of 3 sequences \(c\)"):
        evaluate_folder(data, results)
    partial = evaluate_folder(data, results, allow_missing=True)
    assert partial.missing == ("c",)
    test = evaluate_folder(data, results, split="test", tracker="mine", output=tmp_path / "report")
    assert test.protocol == "lasher"
    assert test.scores["PR"] == pytest.approx((1 + 0.25) / 2)
    assert {s.name for s in test.sequences} == {"a", "b"}
    assert json.loads((tmp_path / "report" / "report.json").read_text())[0]["scores"] == test.scores
    with pytest.raises(RGBXError, match="split 'val' is not in"):
        evaluate_folder(data, results, split="val")
    with pytest.raises(RGBXError, match="has no sequence d"):
        evaluate_folder(data, results, sequences=["d"])
    with pytest.raises(RGBXError, match="protocol 'vot' is unknown"):
        evaluate_folder(data, results, "vot")
    with pytest.raises(RGBXError, match="no annotated sequence"):
        evaluate_folder(tmp_path / "report", results)


def test_an_absence_file_makes_it_visevent(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "s").mkdir(parents=True)
    np.savetxt(data / "s" / "groundtruth.txt", PERFECT, delimiter=",")
    (data / "s" / "absent_label.txt").write_text("1\n1\n0\n1\n")
    write_boxes(tmp_path / "results" / "s.txt", PERFECT)
    metrics = evaluate_folder(data, tmp_path / "results")
    assert metrics.protocol == "visevent"
    assert metrics.scores["PR"] == 0.75
    (data / "s" / "absent_label.txt").write_text("1\n")
    with pytest.raises(RGBXError, match="has 1 lines"):
        evaluate_folder(data, tmp_path / "results")


def test_a_box_at_the_left_border_is_valid_in_memory_and_absent_at_zero_in_a_file(tmp_path: Path) -> None:
    boxes = np.array([[0.0, 0, 8, 8], [0, 0, 8, 8], [np.nan] * 4])
    sequence = ArraySequence("s", "thermal", np.zeros((3, 16, 16, 6), np.uint8), boxes)
    metrics = evaluate([sequence], {"s": boxes})
    assert metrics.sequences[0].absent == 1
    assert metrics.scores["SR"] == pytest.approx(2 / 3 * 20 / 21)
    with pytest.raises(RGBXError, match="have no result"):
        evaluate([sequence], {})


# ---- reports


@pytest.fixture
def trackers() -> list[Metrics]:
    rng = np.random.default_rng(0)
    found = []
    for name, noise in (("SRFT", 2.0), ("AdamW | plain", 8.0), ("RGB", 20.0)):
        scored = []
        for k in range(3):
            truth = np.concatenate([rng.uniform(20, 90, (30, 2)), rng.uniform(20, 40, (30, 2))], axis=1)
            scored.append(score_sequence(f"s{k}", truth + rng.normal(0, noise, truth.shape), truth))
        found.append(mean_over_sequences(scored, tracker=name))
    return found


def test_report_says_what_the_metrics_say(tmp_path: Path, trackers: list[Metrics]) -> None:
    table = text_table(trackers, per_sequence=True)
    row = next(line for line in table.splitlines() if line.startswith("SRFT"))
    assert row.split()[1:4] == [f"{100 * trackers[0].scores[k]:.1f}" for k in ("PR", "NPR", "SR")]
    page = markdown_report(trackers)
    assert "AdamW \\| plain" in page
    assert all(f"| s{k} |" in page for k in range(3))
    written = write_report(trackers, tmp_path / "out")
    assert sorted(p.name for p in written.values()) == sorted(p.name for p in (tmp_path / "out").iterdir())
    stored = json.loads(written["report.json"].read_text())
    assert stored[1]["scores"] == trackers[1].scores
    assert stored[0]["curves"]["success"]["values"] == trackers[0].curves["success"].values.tolist()


@pytest.mark.parametrize("curve", ["precision", "normalized_precision", "success"])
def test_plots_open_with_a_line_for_every_tracker(tmp_path: Path, trackers: list[Metrics], curve: str) -> None:
    path = plot_curves(trackers, curve, tmp_path / "deep" / "plot.png")
    with Image.open(path) as image:
        assert image.size == (960, 720)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ([0xD1, 0x49, 0x5B], [0x2E, 0x6F, 0x95], [0x3A, 0x9D, 0x6E]):
        assert (pixels == color).all(axis=1).sum() > 100


def test_plots_and_reports_refuse_what_they_cannot_show(tmp_path: Path, trackers: list[Metrics]) -> None:
    pooled = pool_frames([best_of_two("s", PERFECT, PERFECT, PERFECT)])
    with pytest.raises(RGBXError, match="nothing to plot"):
        plot_curves([], "success", tmp_path / "a.png")
    with pytest.raises(RGBXError, match="has no 'normalized_precision' curve"):
        plot_curves([pooled], "normalized_precision", tmp_path / "a.png")
    with pytest.raises(RGBXError, match="different protocols"):
        text_table([*trackers, pooled])
    assert not list(tmp_path.iterdir())
