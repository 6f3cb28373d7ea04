"""Pages hold what is in the result files that they are made of; what is refused; and the live window."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.paths import REPOSITORY
from tests.tracker.viewing.recorded_runs import (
    ABSENT,
    FRAMES,
    HEIGHT,
    NAMES,
    WIDTH,
    Example,
    confidence_of,
    gray_of,
    iou_of,
    results_of,
    truth_of,
    write_example,
)
from tracker.cli import cli
from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError
from tracker.inference.tracking import Track, Tracked, track_sequence
from tracker.models.config import tiny
from tracker.models.tracker import build_network
from tracker.viewing import LiveWindow, PageSettings, Record, Run, find_runs, score_runs, write_page
from tracker.viewing.pictures import encode_frame, panel_size, take_pictures
from tracker.viewing.scores import compare_scores


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return write_example(tmp_path_factory.mktemp("example"))


def blocks(page: Path) -> dict[str, Any]:
    """Return the data in a page, by the id of its element."""
    found = re.findall(
        r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    return {name: json.loads(text) for name, text in found}


def moving(name: str = "made", frames: int = 12, width: int = 64, height: int = 48, depth: int = 6) -> ArraySequence:
    noise = np.random.default_rng(0).integers(0, 255, (frames, height, width, depth), dtype=np.uint8)
    boxes = np.stack([np.array([5.0 + i, 6.0, 20.0, 10.0]) for i in range(frames)])
    return ArraySequence(name, "thermal", noise, boxes)


def exact(sequence: ArraySequence, label: str = "exact") -> Run:
    return Run(label, {sequence.name: Record(sequence.boxes)})


# ---- reading runs


def test_runs_are_read_in_the_coordinates_of_memory(example: Example) -> None:
    first, second = find_runs([example.first, example.second], example.sequences)
    assert (first.label, second.label) == ("first", "second")
    for run, read in enumerate((first, second)):
        assert set(read.records) == set(NAMES)
        for name in NAMES:
            np.testing.assert_allclose(read.records[name].boxes, results_of(run, name) - [1, 1, 0, 0], atol=1e-9)
            np.testing.assert_allclose(read.records[name].confidence, confidence_of(run, name), atol=1e-9)
    assert first.records["easy"].lost is None
    np.testing.assert_array_equal(np.flatnonzero(first.records["hard"].lost), np.arange(6, FRAMES))


def test_folders_of_runs_are_found_where_evaluation_leaves_them(example: Example, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(example.first, tmp_path / "eval" / "results" / name)
    runs = find_runs([tmp_path / "eval"], example.sequences)
    assert [run.label for run in runs] == ["a", "b"]
    shutil.copytree(example.first, tmp_path / "other" / "a")
    both = find_runs([tmp_path / "eval" / "results" / "a", tmp_path / "other"], example.sequences)
    assert [run.label for run in both] == ["results/a", "other/a"]


def test_results_of_others_are_read(example: Example, tmp_path: Path) -> None:
    # Tabs, corners, a prefix, more lines than frames; no confidences.
    boxes = results_of(0, "easy")
    left, top, right, bottom = boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1)
    np.savetxt(tmp_path / "theirs_easy.txt", np.vstack([corners, corners[-1:]]), fmt="%.8f", delimiter="\t")
    (run,) = find_runs([tmp_path], example.sequences)
    assert set(run.records) == {"easy"}
    np.testing.assert_allclose(run.records["easy"].boxes, boxes - [1, 1, 0, 0], atol=1e-6)
    assert run.records["easy"].confidence is None


def test_rows_without_a_box_have_no_confidence(example: Example, tmp_path: Path) -> None:
    boxes = results_of(0, "easy")
    boxes[:2] = 0
    np.savetxt(tmp_path / "easy.txt", boxes, delimiter=",")
    np.savetxt(tmp_path / "easy_confidence.txt", confidence_of(0, "easy"))
    record = find_runs([tmp_path], example.sequences)[0].records["easy"]
    assert record.confidence is not None
    assert np.isnan(record.boxes[:2]).all()
    assert np.isnan(record.confidence[:2]).all()
    np.testing.assert_allclose(record.confidence[2:], confidence_of(0, "easy")[2:])


def test_what_cannot_be_read_is_refused(example: Example, tmp_path: Path) -> None:
    sequences = example.sequences
    with pytest.raises(RGBXError, match="is not a folder"):
        find_runs([tmp_path / "nowhere"], sequences)
    with pytest.raises(RGBXError, match=r"no result for any of the 3 sequences .*like easy\.txt"):
        find_runs([tmp_path], sequences)
    with pytest.raises(RGBXError, match="given twice"):
        find_runs([example.first, example.first], sequences)
    np.savetxt(tmp_path / "easy.txt", results_of(0, "easy")[:-1], delimiter=",")
    with pytest.raises(RGBXError, match="easy: 23 results for 24"):
        find_runs([tmp_path], sequences)
    np.savetxt(tmp_path / "easy.txt", results_of(0, "easy"), delimiter=",")
    (tmp_path / "easy_lost.txt").write_text("0\n1\n")
    with pytest.raises(RGBXError, match=r"easy_lost\.txt has 2 lines for the 24 frames"):
        find_runs([tmp_path], sequences)
    for k in range(9):
        shutil.copytree(example.first, tmp_path / "many" / f"r{k}")
    with pytest.raises(RGBXError, match="9 runs are more than can be told apart"):
        find_runs([tmp_path / "many"], sequences)


# ---- scores


def test_scores_are_those_computed_by_hand(example: Example) -> None:
    runs = find_runs([example.first, example.second], example.sequences)
    scores = score_runs(runs, example.sequences)
    for run in range(2):
        for name in NAMES:
            seen = [v for i in range(FRAMES) if (v := iou_of(run, name, i)) is not None]
            success = sum(sum(v > k / 20 for v in seen) / len(seen) for k in range(21)) / 21
            assert scores[run][name]["SR"] == pytest.approx(success, abs=1e-12)
    # 14 of the 20 frames of "hard" that have a truth are from frame 6 on, and 40 pixels off.
    assert scores[0]["hard"]["PR"] == pytest.approx(6 / 20)
    assert scores[1]["hard"]["PR"] == 1.0
    differences = compare_scores(*scores)
    assert [d.name for d in differences] == ["hard", "easy", "even"]
    assert differences[0].of("PR") == pytest.approx(14 / 20)
    assert differences[1].of("SR") < 0


# ---- the page


def test_page_holds_the_numbers_of_the_files(example: Example, tmp_path: Path) -> None:
    runs = find_runs([example.first, example.second], example.sequences)
    written = write_page(tmp_path / "page.html", example.sequences, runs)
    assert written.size == (tmp_path / "page.html").stat().st_size
    found = blocks(written.path)
    assert [s["name"] for s in found["page"]["sequences"]] == list(NAMES)
    for index, name in enumerate(NAMES):
        content = found[f"sequence-{index}"]
        assert (content["name"], content["frames"], content["origin"], content["panels"]) == (name, FRAMES, 1, 2)
        truth = truth_of(name)
        for i, box in enumerate(content["truth"]):
            assert (box is None) == bool(np.isnan(truth[i]).any())
        for run in range(2):
            data = content["runs"][run]
            np.testing.assert_allclose(data["boxes"], results_of(run, name) - [1, 1, 0, 0], atol=5e-5)
            np.testing.assert_allclose(data["confidence"], confidence_of(run, name), atol=5e-5)
            for i in range(FRAMES):
                expected = iou_of(run, name, i)
                assert data["iou"][i] == (None if expected is None else pytest.approx(expected, abs=5e-5))
        assert content["pictures"]["indices"] == list(range(FRAMES))
        for i, text in enumerate(content["pictures"]["images"]):
            image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (HEIGHT, 2 * WIDTH, 3)
            assert abs(int(image[45, 60, 0]) - gray_of(i)) <= 3
            assert abs(int(image[45, 180, 0]) - (255 - gray_of(i))) <= 3


def test_means_are_over_common_sequences_in_a_comparison(example: Example, tmp_path: Path) -> None:
    runs = find_runs([example.first, example.second], example.sequences)
    fewer = Run("fewer", {name: runs[1].records[name] for name in ("easy", "even")})
    page = blocks(write_page(tmp_path / "p.html", example.sequences, [runs[0], fewer], compare=True).path)["page"]
    scores = score_runs(runs, example.sequences)
    expected = (scores[0]["easy"]["SR"] + scores[0]["even"]["SR"]) / 2
    assert page["runs"][0]["means"]["SR"] == pytest.approx(expected)
    assert page["sequences"][2]["scores"][1] is None
    assert "higher on 0, lower on 1, the same on 1" in page["summary"]


def test_pictures_are_of_the_worst_or_most_different_or_chosen(example: Example, tmp_path: Path) -> None:
    runs = find_runs([example.first, example.second], example.sequences)

    def pictured(chosen: list[Run], **options: Any) -> list[str]:
        compare = options.pop("compare", False)
        page = write_page(tmp_path / "p.html", example.sequences, chosen, PageSettings(**options), compare=compare)
        return [c["name"] for key, c in blocks(page.path).items() if key != "page" and c["pictures"]]

    assert pictured(runs[:1], pictured=1) == ["hard"]
    assert pictured(runs[1:], pictured=2) == ["easy", "hard"]
    assert pictured(runs, pictured=1, compare=True) == ["hard"]
    assert pictured(runs, sequences=("even",)) == ["even"]
    assert pictured(runs, pictured=0) == []


@pytest.mark.parametrize("limit", [400_000, 60_000, 9_000])
def test_pictures_stay_within_their_limit(limit: int) -> None:
    sequences = [moving("long", 40), moving("short", 10)]
    taken = take_pictures(sequences, panel_width=64, quality=75, max_bytes=limit)
    assert sum(len(image) for pictures in taken.values() for image in pictures.images) <= limit
    for sequence in sequences:
        pictures = taken[sequence.name]
        steps = set(np.diff(pictures.indices))
        assert len(steps) <= 1
        assert pictures.indices[0] == 0
        assert len(pictures.images) == len(pictures.indices)
    if limit == 400_000:
        assert taken["long"].indices == list(range(40))
    if limit == 60_000:
        assert 1 < len(taken["long"].indices) < 40


def test_one_picture_stays_whatever_the_limit() -> None:
    taken = take_pictures([moving()], panel_width=64, quality=75, max_bytes=1)
    assert taken["made"].indices == [0]


def test_samples_that_mislead_do_not_break_the_limit() -> None:
    # The frames that are sampled (2, 6, 10 of 12) are blank and small, the others are not.
    sequence = moving()
    frames = np.stack([sequence.frame(i) for i in range(12)])
    frames[[2, 6, 10]] = 0
    plain = ArraySequence("made", "thermal", frames, sequence.boxes)
    each = len(encode_frame(frames[0], 64, 75))
    taken = take_pictures([plain], panel_width=64, quality=75, max_bytes=4 * each)
    assert 1 < len(taken["made"].indices) < 12
    assert sum(map(len, taken["made"].images)) <= 4 * each


def test_panels_keep_their_shape_and_never_grow() -> None:
    assert panel_size(640, 480, 320) == (320, 240)
    assert panel_size(200, 150, 320) == (200, 150)
    assert panel_size(4000, 3, 320) == (320, 1)


def test_a_sequence_of_rgb_alone_has_one_panel(tmp_path: Path) -> None:
    sequence = moving(depth=3)
    content = blocks(write_page(tmp_path / "p.html", [sequence], [exact(sequence)]).path)["sequence-0"]
    assert content["panels"] == 1
    image = cv2.imdecode(np.frombuffer(base64.b64decode(content["pictures"]["images"][0]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 64, 3)


def test_a_track_without_truth_needs_none(tmp_path: Path) -> None:
    sequence = moving()
    sequence.boxes[1:] = np.nan
    boxes = np.tile([1.0, 2.0, 3.0, 4.0], (12, 1))
    track = Track("made", boxes, np.full(12, 0.5), np.full(12, 0.5), 0, 1.0)
    run = Run("mine", {"made": Record.from_track(track)})
    found = blocks(write_page(tmp_path / "p.html", [sequence], [run]).path)
    assert found["sequence-0"]["annotated"] is False
    assert found["page"]["sequences"][0]["scores"] == [None]
    assert found["page"]["runs"][0]["means"] == {}


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    hostile = "</script><!--<script>alert(1)"
    sequence = moving(hostile)
    text = write_page(tmp_path / "p.html", [sequence], [exact(sequence, hostile)]).path.read_text(encoding="utf-8")
    assert "alert(1)</title>" in text
    assert hostile not in text
    assert text.count("<script") == text.count("</script>")


def test_nothing_is_written_where_a_page_is_refused(example: Example, tmp_path: Path) -> None:
    sequences = example.sequences
    runs = find_runs([example.first, example.second], sequences)
    page = tmp_path / "page.html"
    with pytest.raises(RGBXError, match=r"ends in \.html"):
        write_page(tmp_path / "page.pdf", sequences, runs)
    with pytest.raises(RGBXError, match="0 runs cannot be shown"):
        write_page(page, sequences, [])
    with pytest.raises(RGBXError, match="1 runs cannot be compared"):
        write_page(page, sequences, runs[:1], compare=True)
    with pytest.raises(RGBXError, match="no sequence in common"):
        write_page(page, [moving()], runs)
    with pytest.raises(RGBXError, match="'none' to picture; expected one of easy, even, hard"):
        write_page(page, sequences, runs, PageSettings(sequences=("none",)))
    for settings in ({"pictured": -1}, {"panel_width": 31}, {"quality": 0}, {"quality": 101}, {"max_bytes": 0}):
        with pytest.raises(RGBXError):
            PageSettings(**settings)
    assert not list(tmp_path.iterdir())


def test_a_frame_that_cannot_be_read_leaves_the_old_page(example: Example, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(example.data, data)
    page = tmp_path / "page.html"
    page.write_text("old")
    sorted((data / "easy" / "visible").iterdir())[9].write_bytes(b"")
    result = rgbx("view", example.first, "--data", data, "--out", page)
    assert result.exit_code == 2
    assert "easy: frame 9" in result.stderr
    assert page.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "page.html"]


def test_parts_of_the_page_are_in_the_wheel() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    repository = REPOSITORY
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["tracker"]
    packaged = {path for pattern in patterns for path in (repository / "tracker").glob(pattern)}
    parts = {path for path in (repository / "tracker" / "viewing").glob("page.*") if path.suffix != ".py"}
    assert {path.suffix for path in parts} == {".html", ".css", ".js"}
    assert parts <= packaged


# ---- the commands


def rgbx(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_commands_write_pages_and_say_what_they_left_out(example: Example, tmp_path: Path) -> None:
    out = tmp_path / "new" / "one.html"
    result = rgbx("view", example.first, example.second, "--data", example.data, "--out", out, "--pictures", 1)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.stdout
    assert "Pictures: 1 of 3 sequences, every frame, JPEG, at most 120 pixels wide a panel." in result.stdout
    assert blocks(out)["page"]["compare"] is False
    out = tmp_path / "two.html"
    result = rgbx("compare", example.first, example.second, "--data", example.data, "--out", out, "--max-mb", 0.05)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows[2:5]] == ["hard", "easy", "even"]
    assert rows[2][-1] == "+70.0"
    assert re.search(r"one in [2-9] frames", result.stdout)
    assert out.stat().st_size < 50_000 + 60_000
    assert blocks(out)["page"]["compare"] is True
    assert len(blocks(out)["sequence-2"]["truth"]) == FRAMES
    assert [i for i, box in enumerate(blocks(out)["sequence-2"]["truth"]) if box is None] == list(ABSENT)


def test_commands_refuse_in_one_sentence(example: Example, tmp_path: Path) -> None:
    for arguments in (
        ("view", example.first, "--data", tmp_path / "none", "--out", tmp_path / "p.html"),
        ("view", tmp_path, "--data", example.data, "--out", tmp_path / "p.html"),
        ("compare", example.first, example.first, "--data", example.data, "--out", tmp_path / "p.html"),
        ("view", example.first, "--data", example.data, "--out", tmp_path / "p.html", "--width", 1),
        ("view", example.first, "--data", example.data, "--out", "/dev/null/p.html"),
    ):
        result = rgbx(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert result.stderr.splitlines()[-1].startswith("rgbx: error: ")
    assert not list(tmp_path.iterdir())


def test_track_leaves_a_page_of_its_run(example: Example, tmp_path: Path) -> None:
    folder = example.data / "easy"
    result = rgbx("track", "tiny_rgb", folder, "--out", tmp_path / "out", "--page", "--overlay", "none")
    assert result.exit_code == 0, result.output
    found = blocks(tmp_path / "out" / "page.html")
    assert [run["label"] for run in found["page"]["runs"]] == ["tiny_rgb"]
    written = tmp_path / "out" / "easy.txt"
    np.testing.assert_allclose(
        found["sequence-0"]["runs"][0]["boxes"], np.loadtxt(written, delimiter=",") - [1, 1, 0, 0], atol=5.1e-5
    )
    result = rgbx("track", "tiny_rgb", "--rgb", "no.mp4", "--out", tmp_path / "no", "--page")
    assert result.exit_code == 2
    assert "--page reads frames again" in result.stderr
    assert not (tmp_path / "no").exists()


def test_show_is_refused_before_anything_is_written(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    result = rgbx("track", "tiny_rgb", example.data / "easy", "--out", tmp_path / "out", "--show")
    assert result.exit_code == 2
    assert "a window needs a display" in result.stderr
    result = rgbx("track", "tiny_rgb", example.data, "--all", "--out", tmp_path / "out", "--show")
    assert result.exit_code == 2
    assert "one window for one sequence" in result.stderr
    assert not list(tmp_path.iterdir())


# ---- the documentation

DOCUMENTATION = (REPOSITORY / "docs" / "viewing.md").read_text(encoding="utf-8")


def test_documented_options_are_there() -> None:
    lines = [line.split("#")[0].split() for line in DOCUMENTATION.splitlines() if line.startswith("rgbx ")]
    assert {words[1] for words in lines} == {"view", "compare", "track"}
    table = set(re.findall(r"^\| `(--[a-z-]+)", DOCUMENTATION, re.M))
    for words in lines:
        command = cli.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        if words[1] != "track":
            assert table <= known
            defaults = {option: p.default for p in command.params for option in p.opts}
            for option, default in re.findall(r"^\| `(--[a-z-]+)[^|]*\| (\d+) \|", DOCUMENTATION, re.M):
                assert defaults[option] == int(default)


def test_documented_example_runs(example: Example, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION, flags=re.S)
    for shown, there in (
        ('"/data/LasHeR", split="test"', repr(str(example.data))),
        ('"results/before"', repr(str(example.first))),
        ('"results/after"', repr(str(example.second))),
        ('"changed.html"', repr(str(tmp_path / "changed.html"))),
    ):
        assert shown in code
        code = code.replace(shown, there)
    exec(code, {})
    assert blocks(tmp_path / "changed.html")["page"]["compare"] is True


# ---- the window


def test_what_is_watched_is_what_is_recorded() -> None:
    network = build_network(tiny(kind="two_stream", embed_dim=16, depth=1, num_heads=1, head_channels=8))
    sequence = moving(frames=5)
    seen: list[tuple[int, np.ndarray, float]] = []

    def watch(tracked: Tracked) -> None:
        assert tracked.source.sequence is sequence
        np.testing.assert_array_equal(np.asarray(tracked.frame), sequence.frame(tracked.index))
        seen.append((tracked.index, tracked.result.box, tracked.result.score))

    track = track_sequence(network, sequence, watch=watch)
    assert [index for index, *_ in seen] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal([box for _, box, _ in seen], track.boxes)
    np.testing.assert_array_equal([score for *_, score in seen], track.scores)


def test_a_window_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(RGBXError, match="neither DISPLAY nor WAYLAND_DISPLAY is set"):
        LiveWindow()


def test_a_window_without_a_toolkit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4095")
    plt.switch_backend("agg")
    with pytest.raises(RGBXError, match=r"matplotlib fell back to agg.*write a page"):
        LiveWindow()
    assert plt.get_fignums() == []


WINDOW_SCRIPT = """
    import time

    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.backend_bases import KeyEvent

    from tracker.data.sequence import ArraySequence
    from tracker.inference import SequenceSource, Tracked
    from tracker.inference.online import Result
    from tracker.viewing import LiveWindow

    picture = np.zeros((120, 300, 3), np.uint8)
    picture[:60, :150] = 255, 0, 0
    picture[60:, 150:] = 0, 0, 255
    def corners(image):
        rows, columns = image.shape[:2]
        return [image[int(y * rows), int(x * columns), :3].tolist() for y in (0.25, 0.75) for x in (0.25, 0.75)]

    with LiveWindow(fps=1e9) as window:
        for turned in (picture, picture[::-1]):
            # The display gives a window its size when it comes to it.
            for attempt in range(100):
                assert window.show(turned)
                if corners(np.asarray(plt.gcf().canvas.buffer_rgba())) == corners(turned):
                    break
                time.sleep(0.02)
            assert corners(np.asarray(plt.gcf().canvas.buffer_rgba())) == corners(turned)
        canvas = plt.gcf().canvas
        # Paused by one key, and let go by the next, which arrives a little later.
        KeyEvent("key_press_event", canvas, " ")._process()
        timer = canvas.new_timer(200)
        timer.single_shot = True
        timer.add_callback(lambda: KeyEvent("key_press_event", canvas, " ")._process())
        start = time.monotonic()
        timer.start()
        assert window.show(picture)
        assert time.monotonic() - start > 0.15
        KeyEvent("key_press_event", canvas, "q")._process()
        assert not window.open
        assert not window.show(picture)
    boxes = np.array([[20.0, 10.0, 60.0, 40.0]] * 3)
    sequence = ArraySequence("watched", "thermal", np.zeros((3, 120, 160, 6), np.uint8), boxes)
    with LiveWindow(fps=1e9) as window:
        for attempt in range(100):
            result = Result(boxes[1] + 8, 0.5, 0.5)
            window.watch(Tracked(SequenceSource(sequence), 1, sequence.frame(1), result))
            shown = np.asarray(plt.gcf().canvas.buffer_rgba())[:, :, :3].astype(int)
            red = (np.abs(shown - (0xD1, 0x49, 0x5B)).max(axis=2) < 30).sum()
            if red > 100:
                break
            time.sleep(0.02)
        assert red > 100
        assert (shown.min(axis=2) > 220).sum() > 100  # the ground truth
    slow = LiveWindow(fps=1e-3)
    assert slow.show(picture)
    draws = []
    plt.gcf().canvas.mpl_connect("draw_event", draws.append)
    assert slow.show(picture[::-1])  # too soon after the first
    assert not draws
    slow.close()
    slow.close()
    print("seen on", plt.get_backend())
"""


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="xvfb-run (Debian: xvfb) is not installed")
def test_a_window_shows_pictures_and_answers_keys() -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter (Debian: python3-tk)")
    environment = {**os.environ, "MPLBACKEND": "tkagg"}
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", textwrap.dedent(WINDOW_SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "seen on tkagg" in done.stdout.lower(), done.stderr
