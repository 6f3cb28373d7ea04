"""What becomes of a frame under every protocol: the documentation's table agrees, cell by cell, with plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tracker.evaluation import toolkit_loops as loops
from tests.tracker.evaluation.toolkit_loops import Box, Measured, Refused, no_ties
from tracker.data.layouts import open_sequence
from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError
from tracker.evaluation import LasHeROptions, evaluate, evaluate_folder, read_boxes
from tracker.evaluation.annotations import Annotation
from tracker.evaluation.lasher import mean_over_sequences, score_sequence
from tracker.evaluation.protocols import evaluate_annotations
from tracker.evaluation.results import corners_to_boxes

DOCS = Path(__file__).parents[3] / "docs" / "evaluation.md"
SIZE = (100, 80)
FRAMES = 4
STILL = [30.0, 30.0, 20.0, 20.0]
ELSEWHERE = [60.0, 55.0, 20.0, 20.0]
NOTHING = [math.nan] * 4


@dataclass(frozen=True)
class Condition:
    """A target that stands still, a tracker that is right, and one thing that is out of the ordinary.

    Attributes:
        name: as the table has it.
        frame: where it happens; the cell says what becomes of this frame.
        truth, result: in that frame.
        first: the result in the first frame.
        flagged: the frame is flagged absent.
        lines: number of results, where it is not that of the frames.
    """

    name: str
    frame: int = 2
    truth: tuple[float, ...] = tuple(STILL)
    result: tuple[float, ...] = tuple(STILL)
    first: tuple[float, ...] | None = None
    flagged: bool = False
    lines: int = FRAMES

    def truths(self) -> list[Box]:
        return [list(self.truth) if k == self.frame else list(STILL) for k in range(FRAMES)]

    def results(self) -> list[Box]:
        boxes = [list(self.result) if k == self.frame else list(STILL) for k in range(self.lines)]
        if self.first is not None:
            boxes[0] = list(self.first)
        return boxes

    def absent(self) -> list[bool]:
        return [self.flagged and k == self.frame for k in range(FRAMES)]


def both(name: str, *box: float) -> Condition:
    """Return a condition in which truth and result agree on a box."""
    return Condition(name, truth=box, result=box)


CONDITIONS = (
    Condition("flagged absent, although it has a box", flagged=True),
    Condition("first frame flagged absent", frame=0, flagged=True),
    Condition("true box NaN", truth=tuple(NOTHING)),
    Condition("true box `0,0,0,0`", truth=(0.0, 0.0, 0.0, 0.0)),
    Condition("true box with w or h = 0", truth=(30.0, 30.0, 0.0, 20.0), result=(29.0, 30.0, 2.0, 20.0)),
    Condition("true box with w or h < 0", truth=(30.0, 30.0, -2.0, 20.0), result=(28.0, 30.0, 2.0, 20.0)),
    both("true box over the left or upper border (x or y ≤ 0)", -5.0, 30.0, 20.0, 20.0),
    both("true box over the right or lower border", 90.0, 30.0, 20.0, 20.0),
    both("true box wholly outside, left or above", -50.0, 30.0, 20.0, 20.0),
    both("true box wholly outside, right or below", 150.0, 30.0, 20.0, 20.0),
    Condition("first result elsewhere", frame=0, result=tuple(ELSEWHERE)),
    Condition("result NaN", result=tuple(NOTHING)),
    Condition("result partly NaN", result=(math.nan, 30.0, 20.0, 20.0)),
    Condition("result `0,0,0,0`", result=(0.0, 0.0, 0.0, 0.0)),
    Condition("result with a side < 0", result=(30.0, 30.0, -20.0, -20.0)),
    Condition(
        "second result `0,0,0,0` after a first one elsewhere", 1, result=(0.0, 0.0, 0.0, 0.0), first=tuple(ELSEWHERE)
    ),
    Condition("results missing at the end", frame=3, lines=3),
    Condition("more results than frames", frame=3, lines=6),
)
IDS = [c.name for c in CONDITIONS]
COLUMNS: dict[str, tuple[str, ...]] = {
    "LasHeR": ("lasher",),
    "VisEvent, COESOT": ("visevent", "coesot"),
    "RGBT234, GTOT, VTUAV": ("rgbt234", "gtot", "vtuav"),
    "RGBT210": ("rgbt210",),
    "FE108": ("fe108",),
}
FLAGGED = ("visevent", "coesot")


def by_loops(protocol: str, condition: Condition) -> Measured:
    truth, results = condition.truths(), condition.results()
    if len(results) < len(truth):
        raise Refused
    if protocol == "lasher":
        return loops.lasher(results, truth)
    if protocol in FLAGGED:
        return loops.visevent(results, truth, condition.absent())
    if protocol == "rgbt210":
        return loops.rgbt210(results, truth)
    if protocol == "fe108":
        return loops.fe108(results, truth)
    return loops.best_of_two(results, truth, truth)


def cell_of(protocol: str, condition: Condition) -> str:
    """Return the cell that the toolkit's rule asks for."""
    if condition.flagged and protocol not in FLAGGED:
        return "–"
    try:
        measured = by_loops(protocol, condition)
    except Refused:
        return "refused"
    errors = measured.errors[condition.frame]
    assert measured.frames == FRAMES
    if errors is None:
        return "✗ ✗"
    threshold = 4.99 if protocol == "gtot" else 20.0
    return f"{'✓' if errors[0] <= threshold else '✗'} {'✓' if errors[2] > 0.5 else '✗'}"


def expected_scores(protocol: str, measured: Measured) -> dict[str, float]:
    precision = measured.precision(5.0, strict=True) if protocol == "gtot" else measured.precision(20.0)
    success = measured.mean_success()
    if protocol == "gtot":
        rates = [measured.success(t) for t in loops.IOUS]
        success = sum((a + b) / 2 * 0.05 for a, b in itertools.pairwise(rates))
    names = {"fe108": ("RPR", "RSR"), "rgbt234": ("MPR", "MSR"), "gtot": ("MPR", "MSR"), "vtuav": ("MPR", "MSR")}
    scores = dict(zip(names.get(protocol, ("PR", "SR")), (precision, success), strict=True))
    if protocol in ("lasher", *FLAGGED):
        scores["NPR"] = measured.normalized_precision(0.2)
    return scores


def write_lines(path: Path, rows: list[Box]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{v:g}" for v in row) + "\n" for row in rows))


def write_case(root: Path, protocol: str, condition: Condition) -> None:
    """Write annotation and result as files, as a user of the toolkit has them."""
    truth, results = condition.truths(), condition.results()
    folder = root / "data" / "s"
    files = {
        "lasher": ("visible.txt", "infrared.txt", "init.txt"),
        "rgbt234": ("visible.txt", "infrared.txt", "init.txt"),
        "rgbt210": ("init.txt",),
        "gtot": ("groundTruth_v.txt", "groundTruth_i.txt"),
        "fe108": ("groundtruth_rect.txt",),
        "vtuav": ("rgb.txt", "ir.txt"),
    }.get(protocol, ("groundtruth.txt",))
    rows = [[t[0], t[1], t[0] + t[2], t[1] + t[3]] for t in truth] if protocol == "gtot" else truth
    for file in files:
        write_lines(folder / file, rows)
    if protocol in FLAGGED:
        flags = "".join("0\n" if absent else "1\n" for absent in condition.absent())
        (folder / ("absent_label.txt" if protocol == "visevent" else "absent.txt")).write_text(flags)
    if protocol == "vtuav":  # a result for every frame, and an annotation for every tenth
        results = [box for box in results for _ in range(10)]
    write_lines(root / "results" / "s.txt", results)


def table() -> dict[str, dict[str, str]]:
    """Return the documentation's table: condition to column to cell."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("| frame |"))
    head = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = dict(zip(head[1:], cells[1:], strict=True))
    return rows


def test_the_table_has_every_condition_and_column() -> None:
    rows = table()
    assert list(rows) == [*IDS, "result of 8 numbers, from any corner"]
    assert all(list(cells) == [*COLUMNS, "DepthTrack"] for cells in rows.values())


@pytest.mark.parametrize("protocol", [p for group in COLUMNS.values() for p in group])
@pytest.mark.parametrize("condition", CONDITIONS, ids=IDS)
def test_every_cell_is_the_toolkits(tmp_path: Path, condition: Condition, protocol: str) -> None:
    """The documentation says what the loops find, and the figures of the files are those of the loops."""
    column = next(name for name, group in COLUMNS.items() if protocol in group)
    cell = cell_of(protocol, condition)
    # GTOT's corners cannot write a negative side: their order does not matter.
    turned = protocol == "gtot" and condition.name == "true box with w or h < 0"
    if not turned:
        assert table()[condition.name][column] == cell
    if cell == "–" or turned:
        return
    write_case(tmp_path, protocol, condition)
    arguments = (tmp_path / "data", tmp_path / "results", protocol)
    if cell == "refused":
        with pytest.raises(RGBXError, match=r"sequence s: (3 results|the result of frame|30 results)"):
            evaluate_folder(*arguments)
        return
    wanted = expected_scores(protocol, by_loops(protocol, condition))
    found = evaluate_folder(*arguments).scores
    assert {name: found[name] for name in wanted} == {k: pytest.approx(v, abs=1e-12) for k, v in wanted.items()}


@pytest.mark.parametrize("condition", CONDITIONS, ids=IDS)
def test_every_cell_of_depthtrack_is_the_vot_toolkits(condition: Condition) -> None:
    truth, results = condition.truths(), condition.results()
    cell = table()[condition.name]["DepthTrack"]
    arrays = {"s": np.array(results)}
    annotation = Annotation("s", np.array(truth), size=SIZE)
    confidences = {"s": np.ones(len(results))}
    if condition.flagged:
        assert cell == "–"
        return
    if len(results) < FRAMES:
        assert cell == "refused"
        with pytest.raises(RGBXError, match="3 results for 4"):
            evaluate_annotations([annotation], arrays, "depthtrack", confidences=confidences)
        return
    overlaps = [loops.drawn_overlap(r, t, SIZE) for r, t in zip(results, truth, strict=False)]
    overlaps[0] = loops.drawn_overlap(NOTHING, truth[0], SIZE)
    seen = [not any(math.isnan(v) for v in t) for t in truth]
    note = "" if seen[condition.frame] else ", not in Re"
    assert cell == f"IoU {overlaps[condition.frame]:g}{note}"
    # The first frame has confidence 0, the others 1, so a threshold chooses the others or everything.
    best = 0.0
    for chosen in (overlaps[1:], overlaps):
        precision, recall = sum(chosen) / len(chosen), sum(chosen) / sum(seen)
        total = precision + recall
        best = max(best, 2 * precision * recall / total if total else 0.0)
    found = evaluate_annotations([annotation], arrays, "depthtrack", confidences=confidences)
    assert found.scores["F"] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("clockwise", [True, False])
def test_corners_may_begin_anywhere_and_go_either_way(tmp_path: Path, start: int, clockwise: bool) -> None:
    """All results of one length are half a box off.

    Success is computed by hand, and is the same whatever corner is first.
    """
    corners = [(30, 30), (50, 30), (50, 50), (30, 50)]
    order = [corners[(start + (k if clockwise else -k)) % 4] for k in range(4)]
    line = [float(v) for corner in order for v in corner]
    np.testing.assert_array_equal(corners_to_boxes(np.array([line])), [STILL])
    write_lines(tmp_path / "s.txt", [line])
    np.testing.assert_array_equal(read_boxes(tmp_path / "s.txt", round_values=True), [STILL])
    for protocol in ("lasher", "visevent", "rgbt234", "rgbt210", "gtot", "fe108"):
        root = tmp_path / protocol
        write_case(root, protocol, Condition("right"))
        write_lines(root / "results" / "s.txt", [line] * FRAMES)
        scores = evaluate_folder(root / "data", root / "results", protocol).scores
        success = next(v for k, v in scores.items() if k in ("SR", "MSR", "RSR"))
        assert success == pytest.approx(0.975 if protocol == "gtot" else 20 / 21)
    cells = table()["result of 8 numbers, from any corner"]
    assert [cells[c] for c in COLUMNS] == ["✓ ✓"] * len(COLUMNS)


def test_the_box_around_a_tilted_polygon_is_scored() -> None:
    np.testing.assert_array_equal(corners_to_boxes(np.array([[5.0, 0, 9, 4, 4, 9, 0, 5]])), [[0, 0, 9, 9]])


def test_half_a_box_off_in_corners_from_below_has_the_success_of_the_upright_one(tmp_path: Path) -> None:
    truth, off = [10.0, 10.0, 20.0, 20.0], [12.0, 10.0, 20.0, 20.0]
    write_lines(tmp_path / "data" / "s" / "groundTruth_v.txt", [[10.0, 10.0, 30.0, 30.0]] * 2)
    write_lines(tmp_path / "data" / "s" / "groundTruth_i.txt", [[10.0, 10.0, 30.0, 30.0]] * 2)
    write_lines(tmp_path / "results" / "s.txt", [[12.0, 30, 12, 10, 32, 10, 32, 30]] * 2)
    found = evaluate_folder(tmp_path / "data", tmp_path / "results").scores
    measured = loops.best_of_two([off] * 2, [truth] * 2, [truth] * 2)
    assert found["MSR"] == pytest.approx(expected_scores("gtot", measured)["MSR"], abs=1e-12)
    assert round(100 * found["MSR"], 1) == 82.5


def test_a_present_frame_whose_box_is_over_the_border_is_a_success_in_precision(tmp_path: Path) -> None:
    """This is the smallest input on which figures of COESOT and VisEvent were wrong: 50 / 50 / 47.6."""
    truth = [[10.0, -0.5, 20.0, 20.0]] * 2 + [[10.0, 5.0, 20.0, 20.0]] * 2
    write_lines(tmp_path / "data" / "s" / "groundtruth.txt", truth)
    (tmp_path / "data" / "s" / "absent_label.txt").write_text("1\n" * 4)
    write_lines(tmp_path / "results" / "s.txt", truth)
    scores = evaluate_folder(tmp_path / "data", tmp_path / "results", "visevent").scores
    assert {k: round(100 * v, 1) for k, v in scores.items()} == {"PR": 100.0, "NPR": 100.0, "SR": 47.6}


@pytest.mark.parametrize("protocol", FLAGGED)
def test_tracks_of_an_opened_folder_are_scored_like_their_files(tmp_path: Path, protocol: str) -> None:
    """A sequence in memory no longer tells a flagged frame from one without a box; its files do."""
    truth = [[10.0, -0.5, 20, 20], [10.0, 5, 20, 20], [0.0, 0, 0, 0], [10.0, 5, 20, 20]]
    folder = tmp_path / "data" / "s"
    names = ("vis_imgs", "event_imgs") if protocol == "visevent" else ("s_aps", "s_dvs")
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", SIZE).save(folder / name / f"frame{k:04d}.bmp")
    write_lines(folder / "groundtruth.txt", truth)
    (folder / ("absent_label.txt" if protocol == "visevent" else "absent.txt")).write_text("1\n1\n0\n1\n")
    results = [[10.0, -0.5, 20, 20], [11.0, 5, 20, 20], [10.0, 5, 20, 20], [10.0, 9, 20, 20]]
    write_lines(tmp_path / "results" / "s.txt", results)
    # Flagged present without a box: opened for tracking, and refused where every annotation has to be sound.
    (folder / "groundtruth.txt").write_text((folder / "groundtruth.txt").read_text() + "0,0,0,0\n")
    flags = next(folder.glob("absent*.txt"))
    flags.write_text(flags.read_text() + "1\n")
    for name in names:
        Image.new("RGB", SIZE).save(folder / name / "frame0004.bmp")
    results.append([10.0, 9, 20, 20])
    write_lines(tmp_path / "results" / "s.txt", results)
    with pytest.raises(RGBXError, match="contradicts the boxes"):
        open_sequence(folder)
    files = evaluate_folder(tmp_path / "data", tmp_path / "results", protocol).scores
    memory = evaluate([open_sequence(folder, faulty_boxes="keep")], {"s": np.array(results)}, protocol).scores
    assert memory == {name: pytest.approx(value) for name, value in files.items()}
    assert files["PR"] == 0.8


# ---- whole protocols against the loops, on generated boxes

place = st.integers(-40, 400).map(lambda v: v / 4)
side = st.integers(1, 200).map(lambda v: v / 4)
odd_side = st.one_of(side, st.sampled_from([0.0, -1.0, math.nan]))
result_box = st.tuples(place, place, odd_side, odd_side)
truth_box = st.one_of(
    st.tuples(place, place, side, side), st.sampled_from([(0.0, 0.0, 0.0, 0.0), tuple(NOTHING), (5.0, 5.0, 0.0, 3.0)])
)
frame = st.tuples(result_box, truth_box, st.booleans())
Rule = Callable[[list[Box], list[Box], list[bool]], Measured]


def excluded(results: list[Box], truth: list[Box], absent: list[bool]) -> Measured:
    """Return what one would expect: frames without a valid box, or flagged absent, do not exist."""
    kept = [a or not all(v > 0 for v in t) for t, a in zip(truth, absent, strict=True)]
    errors = [None if out else e for e, out in zip(loops.lasher(results, truth).errors, kept, strict=True)]
    return Measured(errors, max(kept.count(False), 1))


def failure(results: list[Box], truth: list[Box], absent: list[bool]) -> Measured:
    return Measured(excluded(results, truth, absent).errors, len(truth))


def as_lasher(results: list[Box], truth: list[Box], absent: list[bool]) -> Measured:
    errors = loops.lasher(results, truth).errors
    return Measured([(-1.0, -1.0, -1.0) if a else e for e, a in zip(errors, absent, strict=True)], len(truth))


RULES: dict[str, tuple[Rule, LasHeROptions]] = {
    "lasher": (as_lasher, LasHeROptions()),
    "visevent": (loops.visevent, LasHeROptions(absent="visevent", copy_reported_first=True)),
    "excluded": (excluded, LasHeROptions(absent="excluded")),
    "failure": (failure, LasHeROptions(absent="failure")),
}


@settings(max_examples=120, deadline=None)
@given(frames=st.lists(frame, min_size=1, max_size=10), surplus=st.integers(0, 2), name=st.sampled_from(sorted(RULES)))
def test_the_lasot_family_equals_plain_loops(
    frames: list[tuple[tuple[float, ...], tuple[float, ...], bool]], surplus: int, name: str
) -> None:
    rule, options = RULES[name]
    results = [list(r) for r, _, _ in frames] + [[1.0, 1.0, 1.0, 1.0]] * surplus
    truth, absent = [list(t) for _, t, _ in frames], [a for _, _, a in frames]
    measured = rule(results, truth, absent)
    assume(no_ties([v for e in measured.errors if e is not None for v in (e[0], 100 * e[1])]))
    given_results = np.array(results)
    before = given_results.copy()
    scored = score_sequence("s", given_results, np.array(truth), options, ~np.array(absent))
    np.testing.assert_array_equal(given_results, before)
    curves = {
        "precision": [measured.precision(t) for t in loops.PIXELS],
        "normalized_precision": [measured.normalized_precision(t) for t in loops.NORMALIZED],
        "success": [measured.success(t) for t in loops.IOUS],
    }
    for key, values in curves.items():
        np.testing.assert_array_equal(scored.curves[key].values, values)
    assert scored.scores == {
        "PR": curves["precision"][20],
        "NPR": curves["normalized_precision"][20],
        "SR": pytest.approx(measured.mean_success(), abs=1e-15),
    }
    shown = [all(v > 0 for v in t) and not a for t, a in zip(truth, absent, strict=True)]
    assert scored.absent == shown.count(False)


def test_coesot_leaves_sequences_without_any_success_out_of_a_curves_mean() -> None:
    options = LasHeROptions(absent="visevent", drop_zero=True, first_frame=False)
    right, wrong = np.array([STILL] * 4), np.array([ELSEWHERE] * 4)
    good = score_sequence("good", right, right, options)
    lost = score_sequence("lost", wrong, right, options)
    assert mean_over_sequences([good, lost], options).scores["SR"] == pytest.approx(20 / 21)
    assert mean_over_sequences([good, lost]).scores["SR"] == pytest.approx(10 / 21)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.lists(st.tuples(result_box, truth_box), min_size=1, max_size=8), min_size=1, max_size=3))
def test_rgbt210_equals_plain_loops(parts: list[list[tuple[tuple[float, ...], tuple[float, ...]]]]) -> None:
    results = [[list(r) for r, _ in part] for part in parts]
    truths = [[list(t) for _, t in part] for part in parts]
    measured = [loops.rgbt210(r, t) for r, t in zip(results, truths, strict=True)]
    assume(no_ties([e[0] for m in measured for e in m.errors if e is not None]))
    annotations = [Annotation(f"s{k}", np.array(t)) for k, t in enumerate(truths)]
    arrays = {f"s{k}": np.array(r) for k, r in enumerate(results)}
    assert evaluate_annotations(annotations, arrays, "rgbt210").scores == {
        "PR": pytest.approx(sum(m.precision(20) for m in measured) / len(parts), abs=1e-12),
        "SR": pytest.approx(sum(m.mean_success() for m in measured) / len(parts), abs=1e-12),
    }


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(result_box, truth_box, truth_box), min_size=2, max_size=12),
    cut=st.integers(1, 11),
)
def test_gtot_pools_frames_and_rgbt234_and_vtuav_average_sequences(
    rows: list[tuple[tuple[float, ...], ...]], cut: int
) -> None:
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    columns = [[[list(row[j]) for row in part] for j in range(3)] for part in parts]
    measured = [loops.best_of_two(*part) for part in columns]
    pooled = Measured([e for m in measured for e in m.errors], len(rows))
    assume(no_ties([e[0] for e in pooled.errors if e is not None]))
    annotations = [Annotation(f"s{k}", np.array(p[1]), np.array(p[2])) for k, p in enumerate(columns)]
    arrays = {f"s{k}": np.array(p[0]) for k, p in enumerate(columns)}
    wanted = expected_scores("gtot", pooled)
    assert evaluate_annotations(annotations, arrays, "gtot").scores == {
        name: pytest.approx(value, abs=1e-12) for name, value in wanted.items()
    }
    averaged = {
        "MPR": pytest.approx(sum(m.precision(20) for m in measured) / len(parts), abs=1e-12),
        "MSR": pytest.approx(sum(m.mean_success() for m in measured) / len(parts), abs=1e-12),
    }
    assert evaluate_annotations(annotations, arrays, "rgbt234").scores == averaged
    tenfold = {name: np.repeat(boxes, 10, axis=0) for name, boxes in arrays.items()}
    for boxes in tenfold.values():
        boxes[np.arange(len(boxes)) % 10 > 0] = 7.0  # frames that nobody annotated
    assert evaluate_annotations(annotations, tenfold, "vtuav").scores == averaged


positive = st.one_of(side, st.just(0.0))


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(
        st.lists(st.tuples(st.tuples(place, place, positive, positive), truth_box), min_size=1, max_size=8),
        min_size=1,
        max_size=3,
    )
)
def test_fe108_equals_plain_loops(parts: list[list[tuple[tuple[float, ...], tuple[float, ...]]]]) -> None:
    results = [[list(r) for r, _ in part] for part in parts]
    truths = [[list(t) for _, t in part] for part in parts]
    measured = [loops.fe108(r, t) for r, t in zip(results, truths, strict=True)]
    assume(no_ties([e[0] for m in measured for e in m.errors if e is not None]))
    annotations = [Annotation(f"s{k}", np.array(t)) for k, t in enumerate(truths)]
    arrays = {f"s{k}": np.array(r) for k, r in enumerate(results)}
    assert evaluate_annotations(annotations, arrays, "fe108").scores == {
        "RSR": pytest.approx(sum(m.mean_success() for m in measured) / len(parts), abs=1e-12),
        "OP50": pytest.approx(sum(m.success(loops.IOUS[10]) for m in measured) / len(parts), abs=1e-12),
        "OP75": pytest.approx(sum(m.success(loops.IOUS[15]) for m in measured) / len(parts), abs=1e-12),
        "RPR": pytest.approx(sum(m.precision(20) for m in measured) / len(parts), abs=1e-12),
    }


def test_fe108_refuses_what_its_evaluator_refuses() -> None:
    truth = np.array([STILL] * 3)
    for frame_index, wrong in ((1, [10, 10, -1, 20]), (0, [math.nan, 10, 20, 20])):
        results = truth.copy()
        results[frame_index] = wrong
        with pytest.raises(RGBXError, match=f"the result of frame {frame_index}"):
            evaluate_annotations([Annotation("s", truth)], {"s": results}, "fe108")


def test_vtuav_wants_a_result_for_every_frame() -> None:
    annotation = Annotation("s", np.array([STILL] * 4))
    with pytest.raises(RGBXError, match=r"30 results for 4 annotated frames.*at least 31"):
        evaluate_annotations([annotation], {"s": np.array([STILL] * 30)}, "vtuav")


def test_vtuav_in_memory_takes_the_annotated_frames() -> None:
    """There are no annotations between two annotated frames, and results there do not count."""
    truth = np.full((21, 4), math.nan)
    truth[[0, 10, 20]] = STILL
    results = np.full((21, 4), 5.0)
    results[[0, 10]] = STILL
    sequence = ArraySequence("s", "thermal", np.zeros((21, 80, 100, 6), np.uint8), truth)
    assert evaluate([sequence], {"s": results}, "vtuav").scores["MPR"] == pytest.approx(2 / 3)
    # Where numbers of frames are missing, the third annotation is of another frame; the toolkit takes result 20 for it.
    moved = np.full((21, 4), math.nan)
    moved[[0, 10, 19]] = STILL
    sequence.boxes = moved
    sequence.annotated = np.isfinite(moved).all(axis=1)  # type: ignore[attr-defined]
    assert evaluate([sequence], {"s": results}, "vtuav").scores["MPR"] == pytest.approx(2 / 3)


def test_vtuav_rounds_boxes_that_are_given_as_corners(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", [[10.5, 20.4, 40.6, 20.4, 40.6, 50.9, 10.5, 50.9]])
    np.testing.assert_array_equal(read_boxes(tmp_path / "a.txt", round_corners=True), [[11, 20, 30, 31]])
