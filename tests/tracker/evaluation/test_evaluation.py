"""Hand-computed cases, published figures, result files, reports and plots."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tracker.data.layouts import open_dataset, write_sequence
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
from tracker.evaluation.gtot import best_of_two, pool_frames
from tracker.evaluation.lasher import mean_over_sequences, score_sequence
from tracker.evaluation.plots import draw_curves, plot_curves
from tracker.evaluation.recognition import recognize_protocol
from tracker.evaluation.report import markdown_report, text_table

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


def test_too_few_results_are_refused() -> None:
    with pytest.raises(RGBXError, match=r"car: 3 results for 4"):
        score_sequence("car", PERFECT[:3], PERFECT)


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


def test_splits_that_only_the_layouts_know_are_those_of_tracking(tmp_path: Path) -> None:
    names = [f"s{k}" for k in range(6)]
    for name in names:
        write_sequence(
            ArraySequence(name, "thermal", np.zeros((4, 60, 60, 6), np.uint8), PERFECT - 1), tmp_path, "lasher"
        )
    (tmp_path / "trainingsetList.txt").write_text("\n".join(names) + "\n")
    for name in names:
        write_boxes(tmp_path / "results" / f"{name}.txt", PERFECT)
    held = {s.name for s in open_dataset(tmp_path, split="val")}
    found = evaluate_folder(tmp_path, tmp_path / "results", split="val")
    assert {s.name for s in found.sequences} == held
    assert 0 < len(held) < len(names)


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


@pytest.mark.parametrize(("count", "curve"), [(3, "success"), (5, "precision"), (14, "success"), (45, "precision")])
def test_no_legend_covers_a_curve(count: int, curve: str) -> None:
    """The legend's rectangle, as it is drawn, has no point of any curve in it and lies within the picture."""
    truth = np.array([[30.0, 30, 30, 30]] * 25)
    metrics = []
    for k in range(count):
        shifted = truth + np.linspace(0, 30 * (k + 1) / count, 25)[:, None] * [1, 0, 0, 0]
        metrics.append(mean_over_sequences([score_sequence("s", shifted, truth)], tracker=f"Tracker number {k}"))
    figure = draw_curves(metrics, curve)
    figure.canvas.draw()
    axes = figure.axes[0]
    legend = figure.legends[0] if figure.legends else axes.get_legend()
    assert legend is not None
    place = legend.get_window_extent()
    assert len(legend.get_texts()) == count
    assert figure.bbox.x0 <= place.x0 < place.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= place.y0 < place.y1 <= figure.bbox.y1
    for line in axes.get_lines()[:count]:
        points = axes.transData.transform(np.asarray(line.get_xydata()))
        dense = np.concatenate([np.linspace(a, b, 20) for a, b in itertools.pairwise(points)])
        inside = (dense > [place.x0, place.y0]).all(axis=1) & (dense < [place.x1, place.y1]).all(axis=1)
        assert not inside.any()


def test_tables_are_best_first_and_name_their_protocol(tmp_path: Path, trackers: list[Metrics]) -> None:
    order = ["SRFT", "AdamW | plain", "RGB"]
    backwards = trackers[::-1]
    text = text_table(backwards)
    assert text.splitlines()[0] == "LasHeR protocol: lasher"
    assert [line[:4] for line in text.splitlines()[4:]] == ["SRFT", "Adam", "RGB "]
    written = write_report(backwards, tmp_path)
    rows = [line.split(",") for line in written["report.csv"].read_text().splitlines()]
    assert [row[0] for row in rows[1:]] == order
    assert {row[-1] for row in rows[1:]} == {"lasher"}
    page = written["report.md"].read_text()
    assert page.index("| SRFT |") < page.index("| AdamW") < page.index("| RGB |")
    assert "Protocol: LasHeR protocol: lasher" in page
    assert "% LasHeR protocol: lasher" in written["report.tex"].read_text()
    assert {record["protocol"] for record in json.loads(written["report.json"].read_text())} == {"lasher"}


# ---- which protocol


def annotated(root: Path, files: dict[str, str], folders: tuple[str, ...] = (), frames: str = "") -> dict[str, Path]:
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / name).write_text(text)
    for folder in folders:
        (root / folder).mkdir()
        if frames:
            (root / folder / frames).write_bytes(b"")
    return {root.name: root}


BOX, OTHER = "1,1,9,9\n" * 2, "1,1,9,9\n2,1,9,9\n"


@pytest.mark.parametrize(
    ("files", "folders", "protocol"),
    [
        ({"visible.txt": BOX, "infrared.txt": BOX, "init.txt": BOX}, (), "lasher"),
        ({"visible.txt": BOX, "infrared.txt": BOX.replace(",", " "), "init.txt": BOX}, (), "lasher"),
        ({"visible.txt": BOX, "infrared.txt": OTHER, "init.txt": BOX}, (), "rgbt234"),
        ({"init.txt": BOX}, (), "rgbt210"),
        ({"groundTruth_v.txt": BOX, "groundTruth_i.txt": BOX, "init.txt": BOX}, (), "gtot"),
        ({"rgb.txt": BOX, "ir.txt": BOX}, ("rgb", "ir"), "vtuav"),
        ({"groundtruth.txt": BOX, "absent_label.txt": "1\n1\n"}, (), "visevent"),
        ({"groundtruth.txt": BOX, "absent.txt": "1\n1\n"}, (), "coesot"),
        ({"groundtruth.txt": BOX}, ("color", "depth"), "depthtrack"),
        ({"groundtruth_rect.txt": BOX}, (), "fe108"),
    ],
)
def test_protocols_are_recognized_by_their_files(
    tmp_path: Path, files: dict[str, str], folders: tuple[str, ...], protocol: str
) -> None:
    found = recognize_protocol(annotated(tmp_path / "s", files, folders))
    assert found.protocol == protocol
    assert found.reason


def test_rgbt234_is_told_from_lasher_by_all_sequences_and_by_its_frames(tmp_path: Path) -> None:
    same = {"visible.txt": BOX, "infrared.txt": BOX}
    differing = {"visible.txt": BOX, "infrared.txt": OTHER}
    paths: dict[str, Path] = {}
    for name, files in (("a", same), ("b", differing), ("c", differing)):
        paths |= annotated(tmp_path / name, files)
    assert recognize_protocol(paths) == ("rgbt234", "visible.txt and infrared.txt differ in 2 of 3 sequences")
    paths |= annotated(tmp_path / "d", same)
    assert recognize_protocol(paths) == ("lasher", "visible.txt and infrared.txt differ in 2 of 4 sequences")
    numbered = annotated(tmp_path / "e", same, ("visible",), "00001v.jpg")
    assert recognize_protocol(numbered).protocol == "rgbt234"
    assert recognize_protocol(annotated(tmp_path / "f", same, ("visible",), "v0001.jpg")).protocol == "lasher"


def test_auto_says_which_protocol_it_took_and_why(tmp_path: Path) -> None:
    data = lasher_folder(tmp_path / "data", ["a"], PERFECT)
    np.savetxt(data / "a" / "infrared.txt", PERFECT + 1, fmt="%g", delimiter=",")
    write_boxes(tmp_path / "results" / "a.txt", PERFECT)
    metrics = evaluate_folder(data, tmp_path / "results", output=tmp_path / "out")
    assert metrics.protocol == "rgbt234"
    line = "rgbt234 (told by the data: visible.txt and infrared.txt differ in 1 of 1 sequences)"
    assert line in text_table([metrics])
    assert line in (tmp_path / "out" / "report.md").read_text()
    named = evaluate_folder(data, tmp_path / "results", "lasher", options=LasHeROptions(absent="excluded"))
    assert text_table([named]).splitlines()[0] == "LasHeR protocol: lasher with absent=excluded"


def test_plots_and_reports_refuse_what_they_cannot_show(tmp_path: Path, trackers: list[Metrics]) -> None:
    pooled = pool_frames([best_of_two("s", PERFECT, PERFECT, PERFECT)])
    with pytest.raises(RGBXError, match="nothing to plot"):
        plot_curves([], "success", tmp_path / "a.png")
    with pytest.raises(RGBXError, match="has no 'normalized_precision' curve"):
        plot_curves([pooled], "normalized_precision", tmp_path / "a.png")
    with pytest.raises(RGBXError, match="different protocols"):
        text_table([*trackers, pooled])
    assert not list(tmp_path.iterdir())
