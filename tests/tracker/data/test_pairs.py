"""Pairs keep to causality, gaps and presence; samples are pure functions; and boxes fit what is in the crop."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.data.dataset import PairDataset, PairSettings
from tracker.data.sampling import CausalPairSampler, mixture_weights
from tracker.data.sequence import ArraySequence, Sequence
from tracker.errors import RGBXError


class Presence(Sequence):
    """A sequence that consists of nothing but boxes."""

    def __init__(self, present: list[bool], name: str = "presence") -> None:
        self.name, self.modality = name, "rgb"
        self.boxes = np.where(np.array(present)[:, None], [1.0, 1, 5, 5], np.nan)

    def frame(self, index: int) -> np.ndarray:
        raise AssertionError("no frame is needed to draw a pair")


def square_sequence(name: str = "square", count: int = 30, value: int = 200, seed: int = 0) -> ArraySequence:
    """Return a bright rectangle on black, the same in RGB and X, at whole pixels."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, 120, 160, 6), dtype=np.uint8)
    boxes = np.zeros((count, 4))
    for i in range(count):
        w, h = rng.integers(16, 40, 2)
        x, y = rng.integers(30, 160 - 30 - w), rng.integers(20, 120 - 20 - h)
        frames[i, y : y + h, x : x + w] = value
        boxes[i] = x, y, w, h
    return ArraySequence(name, "thermal", frames, boxes)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=80),
    st.integers(1, 30),
    st.integers(1, 7),
    st.integers(0, 2**32 - 1),
)
def test_pairs_are_causal_present_and_within_the_grown_gap(present, max_gap, growth, seed) -> None:
    if sum(present) < 2:
        with pytest.raises(RGBXError, match="none of 1 sequences can be drawn from"):
            CausalPairSampler([Presence(present)], max_gap, growth, min_frames=1, min_present=1)
        return
    sampler = CausalPairSampler([Presence(present)], max_gap, growth, min_frames=1, min_present=1)
    pair = sampler.draw(np.random.default_rng(seed))
    assert present[pair.template]
    assert present[pair.search]
    gap = max_gap
    while not any(present[pair.template + 1 : pair.template + gap + 1]):
        gap += growth
    assert 0 < pair.search - pair.template <= gap


def test_every_allowed_pair_is_drawn_and_templates_are_uniform() -> None:
    present = [True, False, True, True, False, False, True]
    sampler = CausalPairSampler([Presence(present)], 2, 1, min_frames=1, min_present=1)
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(rng) for _ in range(3000)]
    # From 3 the gap must grow from 2 to 3.
    assert {(p.template, p.search) for p in drawn} == {(0, 2), (2, 3), (3, 6)}
    share = np.array([sum(p.template == t for p in drawn) for t in (0, 2, 3)]) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=4 * np.sqrt(2 / 9 / 3000))


def test_the_gap_grows_in_whole_steps() -> None:
    present = [i in (0, 4, 5, 6) for i in range(7)]
    sampler = CausalPairSampler([Presence(present)], 2, 3, min_frames=1, min_present=1)
    rng = np.random.default_rng(0)
    # From 0 the gap 2 finds nothing; 2 + 3 reaches frames 4 and 5, and not 6.
    drawn = (sampler.draw(rng) for _ in range(300))
    assert {p.search for p in drawn if p.template == 0} == {4, 5}


def test_sequences_are_drawn_by_weight_and_short_ones_never() -> None:
    full = [True] * 25
    sequences = [
        Presence(full, "a"),
        Presence([True] * 19, "short"),
        Presence(full, "b"),
        Presence([True] * 4 + [False] * 30, "rare"),
    ]
    sampler = CausalPairSampler(sequences, weights=[1.0, 5.0, 3.0, 5.0])
    rng = np.random.default_rng(1)
    drawn = np.bincount([sampler.draw(rng).sequence for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.25, 0, 0.75, 0], atol=4 * np.sqrt(0.1875 / 4000))
    assert [index for index, _ in sampler.unusable] == [1, 3]
    assert "short has 19 frames, fewer than 20" in sampler.unusable[0][1]
    assert "rare shows its target in 4 frames, fewer than 5" in sampler.unusable[1][1]


def test_mixtures_draw_sets_by_ratio() -> None:
    weights = mixture_weights([2, 3], [1.0, 1.0])
    assert weights == [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]
    with pytest.raises(RGBXError, match="one ratio for each"):
        mixture_weights([2], [1.0, 2.0])
    with pytest.raises(RGBXError, match="must have sequences"):
        mixture_weights([0, 1], [1.0, 1.0])
    with pytest.raises(RGBXError, match="expected one, not negative"):
        CausalPairSampler([Presence([True] * 30)], weights=[-1.0])
    with pytest.raises(RGBXError, match="at least 1 frame"):
        CausalPairSampler([Presence([True] * 30)], max_gap=0)
    with pytest.raises(RGBXError, match="the list is empty"):
        CausalPairSampler([])


def test_a_sample_is_a_pure_function_of_seed_epoch_and_index() -> None:
    sequences = [square_sequence("a", seed=1), square_sequence("b", seed=2)]
    one = PairDataset(sequences, samples_per_epoch=40, seed=5)
    two = pickle.loads(pickle.dumps(PairDataset(sequences, samples_per_epoch=999, seed=5)))
    one.set_epoch(3)
    two.set_epoch(3)
    backwards = {i: two[i] for i in reversed(range(40))}
    for i in range(40):
        for key, value in one[i].items():
            assert torch.equal(value, backwards[i][key]), key
    two.set_epoch(4)
    other_seed = PairDataset(sequences, samples_per_epoch=40, seed=6)
    other_seed.set_epoch(3)
    assert sum(torch.equal(one[i]["box"], two[i]["box"]) for i in range(40)) == 0
    assert sum(torch.equal(one[i]["box"], other_seed[i]["box"]) for i in range(40)) == 0
    with pytest.raises(IndexError):
        one[40]


def test_persistent_workers_follow_the_epoch() -> None:
    dataset = PairDataset(
        [square_sequence()], PairSettings(search_size=32, template_size=16), samples_per_epoch=8, seed=1
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        seen = torch.cat([batch["box"] for batch in loader])
        assert torch.equal(seen, torch.stack([dataset[i]["box"] for i in range(8)]))


def test_shapes_dtypes_and_equal_halves() -> None:
    dataset = PairDataset([square_sequence()], PairSettings(grayscale=0.0), samples_per_epoch=60)
    for i in range(60):
        sample = dataset[i]
        assert sample["template"].shape == (6, 64, 64)
        assert sample["search"].shape == (6, 128, 128)
        assert sample["template"].dtype == sample["search"].dtype == torch.uint8
        assert sample["box"].shape == (4,)
        assert sample["box"].dtype == torch.float32
        assert sample["sequence"].dtype == torch.int64
        # X was the same picture as RGB; whatever was drawn, it still is.
        assert torch.equal(sample["template"][:3], sample["template"][3:])
        assert torch.equal(sample["search"][:3], sample["search"][3:])


def test_the_box_is_where_the_target_is_in_the_augmented_crop() -> None:
    dataset = PairDataset([square_sequence()], PairSettings(brightness=0.1), samples_per_epoch=150, seed=3)
    flipped = 0
    for i in range(150):
        sample = dataset[i]
        cx, cy, w, h = (float(v) * 128 for v in sample["box"])
        bright = sample["search"][3].numpy() > 90
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        # Clipped by the crop; half a pixel of the threshold on each side, and one of bilinear resizing.
        box = [max(cx - w / 2, 0), max(cy - h / 2, 0), min(cx + w / 2, 128), min(cy + h / 2, 128)]
        np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], box, atol=1.0)
        flipped += cx > 64
        # The template has the target in its middle, a quarter of its area.
        template = sample["template"][3].numpy() > 90
        ys, xs = np.nonzero(template)
        assert abs(xs.mean() + 0.5 - 32) < 1
        assert abs(ys.mean() + 0.5 - 32) < 1
        assert abs(template.sum() / 64**2 - 0.25) < 0.04
    assert 40 < flipped < 110


def test_without_x_the_second_half_is_zero() -> None:
    frames = np.full((25, 60, 60, 3), 77, dtype=np.uint8)
    sequence = ArraySequence("plain", "rgb", frames, np.tile([20.0, 20, 15, 15], (25, 1)))
    assert sequence.frame(0).shape == (60, 60, 6)
    sample = PairDataset([sequence], PairSettings(brightness=0.0, grayscale=0.0), samples_per_epoch=3)[1]
    assert (sample["template"][:3] == 77).all()
    assert not sample["template"][3:].any()
    assert not sample["search"][3:].any()


class Breaking(ArraySequence):
    """A sequence whose frames after the fifth cannot be read."""

    def planes(self, index: int) -> np.ndarray:
        if index > 5:
            raise RGBXError(f"sequence {self.name}: frame {index} is missing: f{index}.png")
        return super().planes(index)


def breaking() -> Breaking:
    whole = square_sequence()
    return Breaking("hurt", "thermal", whole._frames, whole.boxes)


def test_broken_samples_are_raised_or_reported_never_silent(caplog) -> None:
    strict = PairDataset([breaking()], samples_per_epoch=50)
    with pytest.raises(RGBXError, match=r"sequence hurt: frame \d+ is missing"):
        [strict[i] for i in range(50)]
    lenient = PairDataset([breaking()], PairSettings(broken="report", max_broken=500, max_gap=5), samples_per_epoch=3)
    with caplog.at_level(logging.WARNING, logger="tracker.data.dataset"):
        first = lenient[1]
    assert len(lenient.broken) == len(caplog.records) > 0
    assert all("sequence hurt: frame" in r.getMessage() for r in caplog.records)
    assert torch.equal(first["box"], lenient[1]["box"])
    hopeless = PairDataset([breaking()], PairSettings(broken="report", max_broken=2, max_gap=1), samples_per_epoch=50)
    with pytest.raises(RGBXError, match="2 pairs in a row could not be read, the last because: sequence hurt"):
        [hopeless[i] for i in range(50)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"template_size": 0}, "template_size is 0; it must be at least 1"),
        ({"search_factor": 0.0}, "search_factor is 0.0; it must be positive"),
        ({"scale_jitter": -1.0}, "scale_jitter is -1.0; it must not be negative"),
        ({"flip": 1.5}, r"flip is 1.5; it must lie in \[0, 1\]"),
        ({"broken": "skip"}, "expected 'raise' or 'report'"),
    ],
)
def test_settings_are_checked(change, sentence) -> None:
    with pytest.raises(RGBXError, match=sentence):
        PairSettings(**change)


def test_bad_arrays_and_counts_are_refused() -> None:
    frames = np.zeros((4, 8, 8, 6), dtype=np.uint8)
    with pytest.raises(RGBXError, match="sequence s: 4 frames but 3 boxes"):
        ArraySequence("s", "thermal", frames, np.ones((3, 4)))
    with pytest.raises(RGBXError, match=r"expected \(N, 4\)"):
        ArraySequence("s", "thermal", frames, np.ones((4, 5)))
    with pytest.raises(RGBXError, match="uint8"):
        ArraySequence("s", "thermal", frames.astype(float), np.ones((4, 4)))
    with pytest.raises(RGBXError, match="samples_per_epoch is 0"):
        PairDataset([square_sequence()], samples_per_epoch=0)
    absent = ArraySequence("s", "thermal", frames, [[1, 1, 0, 4], [1, 1, 4, 4], [np.nan] * 4, [1, 1, -3, 2]])
    assert absent.present.tolist() == [False, True, False, False]
