"""Every benchmark's protocol agrees with plain loops, and attributes, BOC and reports with counting by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tracker.evaluation.toolkit_loops import drawn_overlap
from tracker.cli import cli
from tracker.commands.evaluation import PROTOCOLS as OFFERED
from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError
from tracker.evaluation import PROTOCOLS, evaluate, evaluate_folder, read_boxes, write_boxes, write_report
from tracker.evaluation.annotations import Annotation
from tracker.evaluation.attributes import ATTRIBUTES, read_attributes, score_attributes
from tracker.evaluation.boc import add_boc, read_weights, weights_from_scores
from tracker.evaluation.depthtrack import confidence_thresholds, pixel_overlap, score_sequences
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import evaluate_annotations, restrict
from tracker.evaluation.published import read_published
from tracker.evaluation.report import csv_rows, latex_rows, text_table
from tracker.evaluation.results import find_results

# ---- RGBT210


def test_rgbt210_reads_init_and_rounds_results(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "s"
    folder.mkdir(parents=True)
    (folder / "init.txt").write_text("10,10,20,20\n" * 2)
    (folder / "visible.txt").write_text("90,90,20,20\n" * 2)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "s.txt").write_text("10,10,20,20\n30.4,10,20,20\n")
    rounded = evaluate_folder(tmp_path / "data", tmp_path / "results", "rgbt210")
    assert rounded.scores["PR"] == 1.0  # 30.4 rounds to 30: 20 pixels away
    assert rounded.options == {"round_results": True}
    raw = evaluate_folder(tmp_path / "data", tmp_path / "results", "rgbt210", round_results=False)
    assert raw.scores["PR"] == 0.5


# ---- FE108


def test_an_invalid_frame_is_a_failure_in_fe108_and_a_success_in_lashers_precision() -> None:
    truth = np.array([[10.0, 10, 20, 20], [0, 0, 0, 0]])
    results = {"s": np.array([[10.0, 10, 20, 20]] * 2)}
    assert evaluate_annotations([Annotation("s", truth)], results, "fe108").scores["RPR"] == 0.5
    assert evaluate_annotations([Annotation("s", truth)], results, "lasher").scores["PR"] == 1.0


# ---- VisEvent and COESOT


def test_absence_files_mean_what_their_sets_say(tmp_path: Path) -> None:
    truth = "10,10,20,20\n" * 4
    (tmp_path / "set" / "s").mkdir(parents=True)
    (tmp_path / "set" / "s" / "groundtruth.txt").write_text(truth)
    (tmp_path / "set" / "s" / "absent.txt").write_text("1\n1\n1\n0\n")  # 1: present
    (tmp_path / "annos" / "absent").mkdir(parents=True)
    (tmp_path / "annos" / "s.txt").write_text(truth)
    (tmp_path / "annos" / "absent" / "s.txt").write_text("0\n0\n0\n1\n")  # VisEvent's toolkit: 1: absent
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "s.txt").write_text(truth)
    own = evaluate_folder(tmp_path / "set", tmp_path / "results")
    assert (own.protocol, own.scores["PR"], own.sequences[0].absent) == ("coesot", 0.75, 1)
    assert evaluate_folder(tmp_path / "annos", tmp_path / "results", "visevent").scores["PR"] == 0.75
    assert evaluate_folder(tmp_path / "annos", tmp_path / "results", "coesot").scores["PR"] == 0.25
    for protocol in ("auto", "lasher"):
        with pytest.raises(RGBXError, match=r"VisEvent's toolkit, and present if .* give the protocol"):
            evaluate_folder(tmp_path / "annos", tmp_path / "results", protocol)
    # VisEvent's toolkit has the boxes in a folder of their own.
    (tmp_path / "annos" / "gt_rect").mkdir()
    (tmp_path / "annos" / "s.txt").rename(tmp_path / "annos" / "gt_rect" / "s.txt")
    for place in (tmp_path / "annos", tmp_path / "annos" / "gt_rect"):
        assert evaluate_folder(place, tmp_path / "results", "visevent").scores["PR"] == 0.75
    (tmp_path / "annos" / "absent" / "s.txt").write_text("0\n1\n")
    with pytest.raises(RGBXError, match="has 2 lines"):
        evaluate_folder(tmp_path / "annos", tmp_path / "results", "coesot")


# ---- DepthTrack

SIZE = (24, 18)
pixel = st.integers(-60, 120).map(lambda v: v / 4)
extent = st.integers(0, 60).map(lambda v: v / 4)
small_box = st.one_of(st.tuples(pixel, pixel, extent, extent), st.just((math.nan,) * 4))


@settings(max_examples=150, deadline=None)
@given(a=small_box, b=small_box, bounded=st.booleans())
def test_pixel_overlap_is_that_of_drawn_boxes(a: tuple[float, ...], b: tuple[float, ...], bounded: bool) -> None:
    found = pixel_overlap(np.array([a]), np.array([b]), SIZE if bounded else None)
    assert found[0] == pytest.approx(drawn_overlap(list(a), list(b), SIZE if bounded else None), abs=1e-12)


def test_a_box_over_the_border_is_compared_inside_only() -> None:
    truth, result = np.array([[0.0, 0, 10, 10]]), np.array([[-10.0, 0, 20, 10]])
    assert pixel_overlap(result, truth, (24, 18))[0] == 1.0
    assert pixel_overlap(result, truth, None)[0] == 0.5


@settings(max_examples=40, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(2, 60), min_size=1, max_size=4), levels=st.integers(1, 1000))
def test_depthtrack_equals_plain_loops(data: st.DataObject, lengths: list[int], levels: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = []
    for k, length in enumerate(lengths):
        truth = np.column_stack([rng.uniform(-5, 20, (length, 2)), rng.uniform(2, 14, (length, 2))])
        results = truth + rng.normal(0, 2, truth.shape)
        truth[1:][rng.random(length - 1) < 0.3] = np.nan
        confidences = np.floor(rng.random(length) * levels) / levels
        rows.append((f"s{k}", results, confidences, truth, SIZE))
    pooled: list[float] = []
    table = []
    for _, results, confidences, truth, _ in rows:
        overlaps = [drawn_overlap(list(r), list(t), SIZE) for r, t in zip(results, truth, strict=True)]
        overlaps[0] = drawn_overlap([math.nan] * 4, list(truth[0]), SIZE)
        scores = [0.0, *map(float, confidences[1:])]
        table.append((overlaps, scores, sum(not math.isnan(t[0]) for t in truth)))
        pooled += scores
    pooled.sort(reverse=True)
    if len(pooled) > 98:
        step = math.floor(len(pooled) / 98)
        places = [round(step + k * (len(pooled) - 2 * step) / 97) for k in range(98)]
        exact = [step + k * (len(pooled) - 2 * step) / 97 for k in range(98)]
        assume(all(abs(abs(p - round(p)) - 0.5) > 1e-9 for p in exact))
        pooled = [pooled[p] for p in places]
    best = (-1.0, 0.0, 0.0)
    for threshold in [math.inf, *pooled, -math.inf]:
        precision = recall = 0.0
        for overlaps, scores, visible in table:
            chosen = [o for o, s in zip(overlaps, scores, strict=True) if s >= threshold]
            precision += (sum(chosen) / len(chosen) if chosen else 1.0) / len(table)
            recall += sum(chosen) / visible / len(table)
        total = precision + recall
        best = max(best, (2 * precision * recall / total if total else 0.0, precision, recall), key=lambda b: b[0])
    found = score_sequences(rows).scores
    assert found["F"] == pytest.approx(best[0], abs=1e-9)


def test_thresholds_are_infinities_around_98_of_the_sorted_confidences() -> None:
    found = confidence_thresholds(np.arange(980) / 980)
    assert (len(found), found[0], found[-1]) == (100, math.inf, -math.inf)
    assert found[1] == (979 - 10) / 980  # the 98 bins hold ten each, and the first ends at index 10
    assert len(confidence_thresholds(np.array([0.5, math.nan, 0.25]))) == 4


def test_depthtrack_by_hand() -> None:
    """There are two sure hits, and an unsure hit on a frame without the target. Leaving that one out is better."""
    truth = np.array([[2.0, 2, 8, 8]] * 4)
    truth[3] = np.nan
    results = np.array([[2.0, 2, 8, 8]] * 4)
    found = score_sequences([("s", results, np.array([1.0, 0.9, 0.8, 0.3]), truth, None)])
    # Frame 0 counts as a visible frame without a box. At 0.8: Pr = 1, Re = 2/3.
    assert found.scores == {"Pr": 1.0, "Re": pytest.approx(2 / 3), "F": pytest.approx(0.8)}
    assert found.options == {"clipped_to_image": False}
    assert (found.sequences[0].absent, found.sequences[0].frames) == (1, 4)


def test_depthtrack_from_files_of_either_kind(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "s"
    (folder / "color").mkdir(parents=True)
    (folder / "depth").mkdir()
    Image.new("RGB", (20, 16)).save(folder / "color" / "00000001.jpg")
    (folder / "groundtruth.txt").write_text("2,2,8,8\n2,2,8,8\nnan,nan,nan,nan\n16,2,4,8\n")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs" / "s"
    (ours / "scores").mkdir(parents=True)
    theirs.mkdir(parents=True)
    (ours / "s.txt").write_text("2,2,8,8\n2,2,8,8\n2,2,8,8\n16,2,8,8\n")
    with pytest.raises(RGBXError, match=r"no confidences \(s\)"):
        evaluate_folder(tmp_path / "data", ours)
    (ours / "scores" / "s.txt").write_text("1,1\n0.9,1\n0.1,0.2\n0.8,0.9\n")
    (theirs / "s_001.txt").write_text("1\n2,2,8,8\n2,2,8,8\n16,2,8,8\n")
    (theirs / "s_001_confidence.value").write_text("\n0.9\n0.1\n0.8\n")
    for results in (ours, tmp_path / "theirs"):
        found = evaluate_folder(tmp_path / "data", results)
        assert found.protocol == "depthtrack"
        assert found.options == {"clipped_to_image": True}
        assert found.scores["F"] == pytest.approx(0.8)  # the last box is right within the image
        assert found.scores["Re"] == pytest.approx(2 / 3)
    (ours / "scores" / "s.txt").write_text("1,1\n")
    with pytest.raises(RGBXError, match="1 confidences for 4"):
        evaluate_folder(tmp_path / "data", ours)


def test_tracks_in_memory_carry_their_confidences() -> None:
    class Track:
        boxes = np.array([[2.0, 2, 8, 8]] * 3)
        scores = np.array([1.0, 0.9, 0.1])

    truth = [[2, 2, 8, 8], [2, 2, 8, 8], [math.nan] * 4]
    sequence = ArraySequence("s", "depth", np.zeros((3, 16, 20, 6), np.uint8), truth)
    found = evaluate([sequence], {"s": Track()}, "depthtrack")
    assert found.scores == {"Pr": 1.0, "Re": 0.5, "F": pytest.approx(2 / 3)}
    with pytest.raises(RGBXError, match="no confidences"):
        evaluate([sequence], {"s": Track.boxes}, "depthtrack")


def test_boxes_of_x_are_the_second_ground_truth_in_memory() -> None:
    visible = np.array([[10.0, 10, 20, 20]] * 2)
    sequence = ArraySequence("s", "thermal", np.zeros((2, 60, 90, 6), np.uint8), visible)
    tracked = {"s": visible + np.array([[0.0, 0, 0, 0], [40, 0, 0, 0]])}
    assert evaluate([sequence], tracked, "rgbt234").scores["MPR"] == 0.5
    sequence.x_boxes = visible + np.array([40.0, 0, 0, 0])
    assert evaluate([sequence], tracked, "rgbt234").scores["MPR"] == 1.0


# ---- BOC


def two_sequences(sr: dict[str, float], tracker: str = "t") -> Metrics:
    """Return COESOT metrics of sequences on which the tracker is right in the given share of 20 frames."""
    annotations, results = [], {}
    for name, share in sr.items():
        truth = np.array([[10.0, 10, 20, 20]] * 20)
        results[name] = truth + 500.0 * (np.arange(20) >= round(20 * share))[:, None]
        annotations.append(Annotation(name, truth))
    return evaluate_annotations(annotations, results, "coesot", tracker=tracker)


def test_boc_weighs_videos_by_what_baselines_miss(tmp_path: Path) -> None:
    metrics = two_sequences({"easy": 1.0, "hard": 0.5})
    file = tmp_path / "baselines.csv"
    file.write_text("sequence,A,B\neasy,0.9,0.7\nhard,0.1,0.3\n")
    weights = read_weights(file, ["easy", "hard"], lambda folder: metrics)
    assert weights == {"easy": pytest.approx(0.2), "hard": pytest.approx(0.8)}
    found = add_boc(metrics, weights).scores["BOC"]
    assert found == pytest.approx((20 / 21 * 0.2 + 0.5 * 20 / 21 * 0.8) / 2)
    with pytest.raises(RGBXError, match="no weight for 1"):
        add_boc(metrics, {"easy": 0.2})
    with pytest.raises(RGBXError, match="outside"):
        weights_from_scores({"easy": [60.0]})
    file.write_text("sequence,A\neasy,high\n")
    with pytest.raises(RGBXError, match="cannot read the baselines"):
        read_weights(file, ["easy"], lambda folder: metrics)
    with pytest.raises(RGBXError, match="BOC belongs to COESOT"):
        add_boc(Metrics("t", "lasher", {}, {}, ()), weights)


def test_boc_from_folders_and_from_stored_curves_agree(tmp_path: Path) -> None:
    from scipy.io import savemat

    names = ["easy", "hard"]
    baselines = {"A": two_sequences({"easy": 0.9, "hard": 0.2}), "B": two_sequences({"easy": 0.7, "hard": 0.0})}
    for name in baselines:
        (tmp_path / "folders" / name).mkdir(parents=True)
    from_folders = read_weights(tmp_path / "folders", names, lambda folder: baselines[folder.name])
    curves = np.array([[s.curves["success"].values for s in m.sequences] for m in baselines.values()])
    savemat(tmp_path / "curves.mat", {"ave_success_rate_plot": curves})
    from_curves = read_weights(tmp_path / "curves.mat", names, lambda folder: baselines["A"])
    assert from_folders == {name: pytest.approx(from_curves[name], abs=1e-12) for name in names}
    # B is right in the first of the 20 frames, which is given.
    assert from_folders["hard"] == pytest.approx(1 - (0.2 + 0.05) / 2 * 20 / 21)
    with pytest.raises(RGBXError, match=r"expected \(baselines, 3, 21\)"):
        read_weights(tmp_path / "curves.mat", [*names, "third"], lambda folder: baselines["A"])


# ---- attributes


def random_metrics(protocol: str, names: list[str], tracker: str, noise: float) -> Metrics:
    rng = np.random.default_rng(len(tracker) + int(10 * noise))
    annotations, results, confidences = [], {}, {}
    for k, name in enumerate(names):
        truth = np.column_stack([rng.uniform(20, 60, (10 + 5 * k, 2)), rng.uniform(15, 30, (10 + 5 * k, 2))])
        results[name] = truth + rng.normal(0, noise, truth.shape)
        if protocol == "vtuav":  # has a result for every frame and an annotation for every tenth
            results[name] = np.repeat(results[name], 10, axis=0)
        confidences[name] = rng.random(len(truth))
        annotations.append(Annotation(name, truth, truth + 1.0))
    return evaluate_annotations(annotations, results, protocol, tracker=tracker, confidences=confidences)


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"depthtrack"}))
def test_figures_of_some_sequences_are_those_of_evaluating_them_alone(protocol: str) -> None:
    whole = random_metrics(protocol, ["a", "b", "c"], "t", 6.0)
    alone = random_metrics(protocol, ["a"], "t", 6.0)  # the same generator, so the same first sequence
    part = restrict(whole, ["a"])
    assert part.scores == {key: pytest.approx(value, abs=1e-12) for key, value in alone.scores.items()}
    assert set(part.curves) == set(whole.curves)
    assert restrict(whole, ["a", "b", "c"]).scores == {k: pytest.approx(v) for k, v in whole.scores.items()}
    with pytest.raises(RGBXError, match="no result for any"):
        restrict(whole, ["d"])


def test_attributes_of_depthtrack_keep_its_thresholds() -> None:
    whole = random_metrics("depthtrack", ["a", "b"], "t", 4.0)
    assert restrict(whole, ["a", "b"]).scores == whole.scores
    assert 0 < restrict(whole, ["b"]).scores["F"] <= 1


FLAGS = {"a": (1, 0, 1), "b": (0, 0, 1), "c": (1, 0, 0)}


def attribute_files(root: Path, form: str) -> Path:
    path = root / form
    if form == "table.csv":
        lines = ["sequence,FM,OCC,LI", *(f"{s},{','.join(map(str, f))}" for s, f in FLAGS.items())]
        path.write_text("\n".join(lines) + "\n")
    elif form == "per_sequence":
        path.mkdir()
        for (s, f), mark in zip(FLAGS.items(), (",", " ", "\n"), strict=True):
            (path / f"{s}.txt").write_text(mark.join(map(str, f)) + "\n")
        (path / "Attributes_order.txt").write_text("FM, OCC, LI")
    else:
        path.mkdir()
        (path / "SequencesName.txt").write_text("\n".join(FLAGS))
        for k, name in enumerate(("FM", "OCC", "LI")):
            (path / f"{name}.txt").write_text("\n".join(str(f[k]) for f in FLAGS.values()))
    return path


@pytest.mark.parametrize("form", ["table.csv", "per_sequence", "per_attribute"])
def test_every_form_of_attribute_files_is_read(tmp_path: Path, form: str) -> None:
    path = attribute_files(tmp_path, form)
    table = read_attributes(path, ["a", "b"])
    assert {name: sorted(s for s in table.sequences[name] if s != "c") for name in table.names} == {
        "FM": ["a"],
        "OCC": [],
        "LI": ["a", "b"],
    }
    metrics = [random_metrics("lasher", ["a", "b"], name, noise) for name, noise in (("one", 2.0), ("two", 9.0))]
    scores = score_attributes(metrics, table)
    order = [name for name in table.names if name != "OCC"]
    assert (list(scores.attributes), scores.counts) == (order, tuple({"FM": 1, "LI": 2}[n] for n in order))
    assert scores.scores["SR"][1][order.index("FM")] == metrics[1].sequences[0].scores["SR"]
    with pytest.raises(RGBXError, match=r"no attributes of 1 of 2 sequences \(d\)"):
        read_attributes(path, ["a", "d"])


def test_published_sets_have_their_attributes_and_wrong_files_are_refused(tmp_path: Path) -> None:
    counts = {"lasher": 19, "rgbt234": 12, "rgbt210": 12, "gtot": 7, "visevent": 17, "coesot": 17}
    assert {name: len(set(names)) for name, names in ATTRIBUTES.items()} == counts
    (tmp_path / "a.txt").write_text("0," * 16 + "1")
    assert read_attributes(tmp_path, ["a"], "coesot").sequences["BOM"] == {"a"}
    with pytest.raises(RGBXError, match="17 attributes; expected 19"):
        read_attributes(tmp_path, ["a"], "lasher")
    with pytest.raises(RGBXError, match="no published attributes"):
        read_attributes(tmp_path, ["a"], "fe108")
    (tmp_path / "a.txt").write_text("0,2")
    with pytest.raises(RGBXError, match="does not hold attributes"):
        read_attributes(tmp_path, ["a"], "coesot")
    with pytest.raises(RGBXError, match="does not exist"):
        read_attributes(tmp_path / "none", ["a"])


# ---- files


def test_results_are_found_under_everybodys_names(tmp_path: Path) -> None:
    for name in (
        "car.txt",
        "T_bus.txt",
        "bike-T.csv",
        "walk",
        "car_time.txt",
        "man_2.txt",
        "dog_001.txt",
        "sun_lost.txt",
    ):
        (tmp_path / name).write_text("1,2,3,4\n")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "cat_001.txt").write_text("1,2,3,4\n")
    names = ["car", "bus", "bike", "walk", "man", "man_2", "dog", "cat", "sun"]
    found = {name: None if p is None else p.name for name, p in find_results(tmp_path, names).items()}
    assert found == {
        "car": "car.txt",
        "bus": "T_bus.txt",
        "bike": "bike-T.csv",
        "walk": "walk",
        "man": None,
        "man_2": "man_2.txt",
        "dog": "dog_001.txt",
        "cat": "cat_001.txt",
        "sun": None,
    }
    (tmp_path / "U_bus.txt").write_text("1,2,3,4\n")
    with pytest.raises(RGBXError, match="2 files that could be the result of bus"):
        find_results(tmp_path, names)


def test_a_header_is_passed_over_but_no_malformed_first_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("x,y,w,h\n1,2,3,4\n")
    np.testing.assert_array_equal(read_boxes(file), [[1, 2, 3, 4]])
    file.write_text("1,2,w,4\n1,2,3,4\n")
    with pytest.raises(RGBXError, match=r"a\.csv, line 1"):
        read_boxes(file)


# ---- reports and the command


def test_rows_for_papers_mark_the_best_and_escape_names() -> None:
    metrics = [random_metrics("lasher", ["a"], name, noise) for name, noise in (("A_1 & co", 2.0), ("B", 30.0))]
    lines = latex_rows(metrics).splitlines()
    assert lines[:2] == ["% LasHeR protocol: lasher", "% tracker & PR & NPR & SR"]
    lines = lines[1:]
    assert lines[1].startswith(r"A\_1 \& co & \textbf{")
    assert lines[1].endswith(r" \\")
    assert "textbf" not in lines[2]
    table = csv_rows(metrics).splitlines()
    assert table[0] == "tracker,PR,NPR,SR,sequences,frames,protocol"
    assert table[2] == f"B,{','.join(f'{100 * metrics[1].scores[k]:.2f}' for k in ('PR', 'NPR', 'SR'))},1,10,lasher"


def test_published_figures_are_compared_where_they_are_given(tmp_path: Path) -> None:
    metrics = [random_metrics("lasher", ["a"], "mine", 3.0)]
    file = tmp_path / "published.csv"
    file.write_text("tracker,PR,SR\nmine,50.0,\nViPT,65.1,52.5\n")
    published = read_published(file)
    assert published == {"mine": {"PR": 0.5}, "ViPT": {"PR": pytest.approx(0.651), "SR": pytest.approx(0.525)}}
    text = text_table(metrics, published=published)
    mine = next(line.split() for line in text.splitlines() if line.startswith("mine") and "PR" in line)
    assert mine == ["mine", "PR", f"{100 * metrics[0].scores['PR']:.1f}", "50.0", mine[4]]
    assert mine[4] == f"{100 * metrics[0].scores['PR'] - 50:+.1f}"
    assert "65.1" in text
    file.write_text("tracker,EAO\nmine,50.0\n")
    with pytest.raises(RGBXError, match="none of the scores"):
        write_report(metrics, tmp_path / "out", published=read_published(file))
    assert not (tmp_path / "out").exists()
    file.write_text("tracker,PR\nmine,0.5x\n")
    with pytest.raises(RGBXError, match="cannot read published"):
        read_published(file)


@pytest.mark.parametrize("protocol", ["rgbt210", "fe108", "depthtrack"])
def test_every_kind_of_protocol_has_a_report_with_plots(tmp_path: Path, protocol: str) -> None:
    metrics = [random_metrics(protocol, ["a", "b"], name, noise) for name, noise in (("one", 1.0), ("two", 9.0))]
    written = write_report(metrics, tmp_path)
    assert {name for name in written if not name.startswith("report")} == set(metrics[0].curves)
    record = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert record[1]["scores"] == metrics[1].scores


def test_the_command_compares_several_folders(tmp_path: Path) -> None:
    data = tmp_path / "data"
    truth = np.array([[10.0, 10, 20, 20]] * 5)
    for name in FLAGS:
        (data / name).mkdir(parents=True)
        np.savetxt(data / name / "visible.txt", truth, fmt="%g", delimiter=",")
        write_boxes(tmp_path / "good" / f"{name}.txt", truth)
        write_boxes(tmp_path / "bad" / f"{name}.txt", truth + 100)
    attributes = attribute_files(tmp_path, "table.csv")
    arguments = ["eval", "--data", str(data), "--protocol", "lasher", "--attributes", str(attributes)]
    arguments += ["--results", str(tmp_path / "good"), "--results", f"other={tmp_path / 'bad'}"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["good", "100.0", "100.0", "95.2", "3", "15"] in rows
    assert ["other", "20.0", "20.0", "19.0", "3", "15"] in rows
    assert ["PR", "by", "attribute", "FM", "LI"] in rows
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record[0]["attributes"]["LI"] == {"sequences": 2, "PR": 1.0, "NPR": 1.0, "SR": pytest.approx(20 / 21)}
    again = CliRunner().invoke(cli, [*arguments, "--results", str(tmp_path / "good")])
    assert (again.exit_code, "two trackers are named good" in again.stderr) == (2, True)


def test_radar_plots_open_with_a_line_for_every_tracker(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("sequence,FM,OCC,LI\na,1,1,1\nb,1,0,1\n")
    metrics = [random_metrics("lasher", ["a", "b"], name, noise) for name, noise in (("one", 1.0), ("two", 9.0))]
    written = write_report(metrics, tmp_path / "out", attributes=score_attributes(metrics, read_attributes(file, "ab")))
    with Image.open(written["attributes_SR"]) as image:
        assert image.size == (960, 960)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ([0xD1, 0x49, 0x5B], [0x2E, 0x6F, 0x95]):
        assert (pixels == color).all(axis=1).sum() > 100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--results", "R", "--data", "D", "--layout", "lasher"], "--layout has no effect with --results"),
        (["--results", "R", "--data", "D", "--count", "3"], "--count has no effect with --results"),
        (["tiny_rgb", "--data", "D", "--seed", "0"], "--seed has no effect with --data: it is for generated"),
        (["tiny_rgb", "--data", "D", "--allow-missing"], "--allow-missing has no effect without --results"),
        (["tiny_rgb", "--layout", "lasher"], "--layout has no effect without --data"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(cli, ["eval", *arguments, "--out", str(tmp_path / "out")])
    assert (done.exit_code, sentence in done.stderr) == (2, True), done.output
    assert not (tmp_path / "out").exists()


def test_the_command_offers_every_protocol() -> None:
    assert OFFERED == PROTOCOLS
