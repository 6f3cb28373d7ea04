"""A sequence of X alone: its frames are X where RGB was, and a sequence without X is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.data.dataset import PairDataset, PairSettings
from tracker.data.sequence import ArraySequence
from tracker.data.x_alone import XAlone
from tracker.errors import RGBXError


def both(channels: int = 6) -> ArraySequence:
    frames = np.random.default_rng(0).integers(0, 256, (25, 40, 50, channels), dtype=np.uint8)
    return ArraySequence("a", "depth" if channels == 6 else "rgb", frames, np.tile([10.0, 8.0, 12.0, 9.0], (25, 1)))


def test_x_stands_where_rgb_was() -> None:
    sequence = both()
    alone = XAlone(sequence)
    assert alone.rgb_only
    assert alone.length == sequence.length
    assert np.array_equal(alone.boxes, sequence.boxes)
    assert np.array_equal(alone.frame(3)[:, :, :3], sequence.frame(3)[:, :, 3:])
    assert not alone.frame(3)[:, :, 3:].any()
    assert np.array_equal(alone.planes(3), sequence.frame(3)[:, :, 3:])


def test_what_is_known_of_the_frames_stays() -> None:
    sequence = both()
    sequence.annotated = np.arange(25) % 2 == 0
    sequence.tags, sequence.origin = {"occlusion": ~sequence.annotated}, 1.0
    sequence.x_boxes = sequence.boxes + 1.0
    alone = XAlone(sequence)
    assert np.array_equal(alone.boxes, sequence.x_boxes), "boxes in X are those of the images that are shown"
    assert alone.annotated is sequence.annotated
    assert alone.tags["occlusion"] is sequence.tags["occlusion"]
    assert alone.origin == 1.0


def test_pairs_of_it_hold_x_alone() -> None:
    settings = PairSettings(augment=False)
    pairs, of_both = (PairDataset([one], settings, 4) for one in (XAlone(both()), both()))
    for part in ("template", "search"):
        assert (pairs[0][part][:3] == of_both[0][part][3:]).all()
        assert not pairs[0][part][3:].any()


def test_a_sequence_without_x_is_refused() -> None:
    with pytest.raises(RGBXError, match="sequence a has no X that could be tracked in alone"):
        XAlone(both(3))
