"""Missing halves, lost targets, wider search and template updates, against hand-computed answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tracker.inference.cases import BLACK, BrightestBlob, ScriptedNetwork, flat_maps, moving
from tracker.data.crop import crop_region
from tracker.data.normalize import IMAGENET_MEAN, normalize
from tracker.errors import RGBXError
from tracker.inference import DroppedSequence, Frame, InferenceSettings, OnlineTracker, track_sequence, track_sequences
from tracker.inference.confidence import LostSignal
from tracker.inference.missing import POLICIES, Halves, check_frame, parse_ranges
from tracker.models.config import tiny
from tracker.models.tracker import TrackerOutput, build_network

RGB, X = (np.full((4, 5, 3), value, np.uint8) for value in (10, 20))


class EitherBlob(nn.Module):
    """:class:`BrightestBlob` in X, so that what stands in for X decides what is found. It keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.blob = BrightestBlob(1.5)
        self.config = self.blob.config
        self.templates: list[Tensor] = []

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        self.templates.append(template.clone())
        answer: TrackerOutput = self.blob(template, search[:, 3:].repeat(1, 2, 1, 1))
        return answer


def scored(*scores: float) -> ScriptedNetwork:
    """Return a network that sees the target in the middle, with these scores one after the other."""
    answers = []
    for score in scores:
        maps = flat_maps(8)
        maps[0][...] = 0
        maps[0][0, 4, 4] = score
        answers.append(maps)
    return ScriptedNetwork(answers)


# ---- stand-ins


def test_each_policy_offers_what_it_says() -> None:
    older = np.full((4, 5, 3), 7, np.uint8)
    for policy, expected in (("mirror", RGB), ("hold", older)):
        halves = Halves(policy)
        halves.complete(Frame(RGB, older))
        whole = halves.complete(Frame(RGB, None))
        assert whole is not None
        np.testing.assert_array_equal(whole, np.concatenate([RGB, expected], axis=2))
        np.testing.assert_array_equal(halves.complete(Frame(None, X))[:, :, 3:], X)  # type: ignore[index]
    mean = Halves("mean").complete(Frame(None, X))
    assert mean is not None
    np.testing.assert_array_equal(mean[0, 0, :3], np.round(255 * np.array(IMAGENET_MEAN)))
    # Half a level off at most: that is what rounding to pixels costs.
    assert normalize(torch.from_numpy(mean[:, :, :3].copy()).permute(2, 0, 1)).abs().max() < 0.5 / 255 / 0.224
    assert Halves("mean").complete(Frame(None, None)) is None


def test_nothing_to_hold_is_mirrored_and_late_images_are_held() -> None:
    halves = Halves("hold")
    np.testing.assert_array_equal(halves.complete(Frame(RGB, None))[:, :, 3:], RGB)  # type: ignore[index]
    halves.remember(Frame(None, X))
    np.testing.assert_array_equal(halves.complete(Frame(RGB, None))[:, :, 3:], X)  # type: ignore[index]
    other = np.full((6, 5, 3), 1, np.uint8)
    np.testing.assert_array_equal(halves.complete(Frame(other, None))[:, :, 3:], other)  # type: ignore[index]


@pytest.mark.parametrize(
    "frame",
    [Frame(RGB, X[:3]), Frame(RGB.astype(float), None), Frame(np.zeros((4, 5, 6), np.uint8), None), Frame(None, X[0])],
)
def test_malformed_halves_are_refused_before_anything_changes(frame: Frame) -> None:
    with pytest.raises(RGBXError, match="frame"):
        check_frame(frame)
    tracker = OnlineTracker(scored(0.9))
    tracker.initialize(BLACK, [90, 65, 20, 20])
    with pytest.raises(RGBXError, match="frame"):
        tracker.track(frame)
    assert tracker.track(BLACK).score > 0.5


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 40)), min_size=1, max_size=4))
def test_ranges_hold_both_ends(spans: list[tuple[int, int]]) -> None:
    ranges = parse_ranges(",".join(f"{first}-{first + more}" for first, more in spans))
    expected = {index for first, more in spans for index in range(first, first + more + 1)}
    assert {index for span in ranges for index in span} == expected


def test_ranges_without_end_with_step_and_malformed() -> None:
    assert [3 in span for span in parse_ranges("1-,3,5-6")] == [True, True, False]
    assert [index for index in range(7) if index in parse_ranges("1-/2")[0]] == [1, 3, 5]
    for text in ("", "a", "5-3", "-4", "1-9/0"):
        with pytest.raises(RGBXError, match="names no frames"):
            parse_ranges(text)


# ---- tracking without RGB or X


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("when", ["0-4", "6-9", "0-/2", "0-"])
@pytest.mark.parametrize("half", ["rgb", "x"])
def test_a_real_network_survives_any_gap(policy: str, when: str, half: str) -> None:
    torch.manual_seed(0)
    network = build_network(tiny(embed_dim=16, depth=1, num_heads=1, head_channels=8, template_size=32, search_size=64))
    sequence = DroppedSequence(moving("s", 12), **{half: parse_ranges(when)})
    track = track_sequence(network, sequence, InferenceSettings(missing=policy))
    assert np.isfinite(track.boxes).all()
    assert np.isfinite(track.scores).all()
    if when == "6-9":  # what comes before the gap does not know of it
        whole = track_sequence(network, moving("s", 6), InferenceSettings(missing=policy))
        np.testing.assert_array_equal(track.boxes[:6], whole.boxes)


def test_mirror_follows_through_a_gap_that_mean_cannot_cross() -> None:
    sequence = DroppedSequence(moving("s", 20), x=parse_ranges("6-12"))
    mirrored = track_sequence(EitherBlob(), sequence, InferenceSettings(missing="mirror"))
    assert np.abs(mirrored.boxes - sequence.boxes).max() < 1
    held = track_sequence(EitherBlob(), sequence, InferenceSettings(missing="hold"))
    # The X of frame 5 stands in for frames 6 to 12: its box stays, and is left once there is X again.
    np.testing.assert_allclose(held.boxes[6:13], np.tile(held.boxes[5], (7, 1)), atol=0.5)


def test_frames_without_any_image_leave_the_box_and_score_nothing() -> None:
    sequence = moving("s", 8)
    dropped = DroppedSequence(sequence, rgb=[range(3, 5)], x=[range(3, 5)])
    network = BrightestBlob(1.5)
    track = track_sequence(network, dropped)
    np.testing.assert_array_equal(track.boxes[3:5], np.tile(track.boxes[2], (2, 1)))
    assert list(track.scores[3:5]) == [0, 0]
    assert network.frames == 5
    # In a batch with others, they get their own answers all the same.
    together = track_sequences(BrightestBlob(1.5), [dropped, moving("t", 8, phase=1)])
    np.testing.assert_array_equal(together["s"].boxes, track.boxes)
    np.testing.assert_array_equal(
        together["t"].boxes, track_sequence(BrightestBlob(1.5), moving("t", 8, phase=1)).boxes
    )
    # The target is taken in the first frame that has an image.
    late = track_sequence(BrightestBlob(1.5), DroppedSequence(sequence, rgb=[range(1)], x=[range(1)]))
    assert late.first == 1
    np.testing.assert_array_equal(late.boxes[1], sequence.boxes[1])


def test_halves_online_give_what_whole_frames_give() -> None:
    sequence = moving("s", 6)
    boxes = []
    tracker = OnlineTracker(BrightestBlob(1.5))
    tracker.initialize(Frame(sequence.frame(0)[:, :, :3], sequence.frame(0)[:, :, 3:]), sequence.boxes[0])
    for index in range(1, 6):
        frame = sequence.frame(index)
        boxes.append(tracker.track(rgb=frame[:, :, :3], x=frame[:, :, 3:]).box)
    np.testing.assert_array_equal(boxes, track_sequence(BrightestBlob(1.5), sequence).boxes[1:])
    with pytest.raises(RGBXError, match="given both"):
        tracker.track(sequence.frame(0), rgb=sequence.frame(0)[:, :, :3])


def test_a_template_without_x_gets_it_once_the_target_is_seen_in_it() -> None:
    sequence = moving("s", 6)
    network = EitherBlob()
    dropped = DroppedSequence(sequence, x=[range(3)])
    settings = InferenceSettings(missing="mean", template_confidence=0.3)
    track_sequence(network, dropped, replace(settings, missing="mirror"))
    assert len(network.templates) == 5
    before, after = network.templates[2][0], network.templates[3][0]
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=0)
    # Frame 3 is the first with X; its crop around the box found there is the X of the templates from frame 4 on.
    box = track_sequence(EitherBlob(), dropped, settings=replace(settings, missing="mirror")).boxes[3]
    crop, _ = crop_region(sequence.frame(3), box, 2.0, 64)
    expected = normalize(torch.from_numpy(crop.transpose(2, 0, 1).copy()))[3:]
    torch.testing.assert_close(after[3:], expected, rtol=0, atol=1e-6)


def test_dropped_images_are_black_in_pictures() -> None:
    dropped = DroppedSequence(moving("s", 3), x=[range(1, 2)])
    assert dropped.frame(1)[:, :, 3:].max() == 0
    assert dropped.frame(1)[:, :, :3].max() == 255
    np.testing.assert_array_equal(dropped.frame(2), moving("s", 3).frame(2))


# ---- lost targets


def test_lost_after_patience_found_above_the_upper_threshold() -> None:
    signal = LostSignal(below=0.2, above=0.4, patience=3)
    scores = [0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.3, 0.39, 0.4, 0.1]
    assert [signal.update(score) for score in scores] == [False] * 5 + [True] * 3 + [False] * 2
    assert signal.frames_lost == 0


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 5))
def test_signal_agrees_with_its_definition(scores: list[float], patience: int) -> None:
    signal = LostSignal(0.2, 0.5, patience)
    lost = False
    for index, score in enumerate(scores):
        recent = scores[max(0, index - patience + 1) : index + 1]
        if lost:
            lost = score < 0.5
        else:
            since = len(recent) == patience and all(value < 0.2 for value in recent)
            lost = since
        assert signal.update(score) is lost


def test_lost_is_told_and_the_search_grows_up_to_twice() -> None:
    network = scored(0.9, 0.05, 0.05, 0.05, 0.05, 0.9, 0.9)
    settings = InferenceSettings(window=False, patience=2, search_growth=1.5)
    tracker = OnlineTracker(network, settings)
    tracker.initialize(BLACK, [95, 70, 10, 10])
    # A box's size is a quarter of its region: at a factor of 4 it stays, at 6 and 8 it grows by 1.5 and 2.
    results = [tracker.track(BLACK) for _ in range(7)]
    assert [result.lost for result in results] == [False, False, True, True, True, False, False]
    widths = [10.0] + [float(result.box[2]) for result in results]
    ratios = [after / before for before, after in pairwise(widths)]
    np.testing.assert_allclose(ratios[:5], [1, 1, 1, 1.5, 2], rtol=1e-6)
    assert ratios[6] == pytest.approx(1)


def test_lost_frames_are_filed(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tracker.inference import track_dataset

    folder = tmp_path_factory.mktemp("run")
    network = scored(0.9, 0.05, 0.05, 0.05)
    first = track_dataset(network, [moving("s", 5)], folder, InferenceSettings(patience=2), progress=False)["s"]
    assert first.lost is not None
    assert first.lost.tolist() == [False, False, False, True, True]
    np.testing.assert_array_equal(np.loadtxt(folder / "s_lost.txt"), [0, 0, 0, 1, 1])
    again = track_dataset(network, [moving("s", 5)], folder, InferenceSettings(patience=2), progress=False)["s"]
    assert again.lost is not None
    assert again.lost.tolist() == first.lost.tolist()
    assert len(network.seen) == 4


# ---- template updates


def test_template_is_renewed_when_due_and_confident_and_given_up_when_lost() -> None:
    class Watching(ScriptedNetwork):
        def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
            levels.append(round(float(template[0, 0].mean() * 0.229 * 255 + 0.485 * 255)))
            return super().forward(template, search)

    levels: list[int] = []
    network = Watching(scored(0.9, 0.9, 0.5, 0.9, 0.9, 0.01, 0.9).answers)
    settings = InferenceSettings(template_update=2, template_confidence=0.7, patience=1, window=False)
    tracker = OnlineTracker(network, settings)
    frames = [np.full((150, 200, 6), level, np.uint8) for level in (100, 110, 120, 130, 140, 150, 160, 170)]
    tracker.initialize(frames[0], [90, 65, 20, 20])
    for frame in frames[1:]:
        tracker.track(frame)
    # Frame 2 is due (120 and 100 by halves), frame 4 as well (140), frame 6 is lost: back to the first.
    assert levels == [100, 100, 110, 110, 120, 120, 100]
    assert OnlineTracker(network)._target is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("missing", "guess"),
        ("lost_below", 1.5),
        ("found_above", 0.1),
        ("patience", 0),
        ("search_growth", 0.9),
        ("search_growth", 3.0),
        ("template_update", -1),
        ("template_share", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: object) -> None:
    with pytest.raises(RGBXError, match=setting):
        InferenceSettings(**{setting: value})
