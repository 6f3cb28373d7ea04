"""The generator gives exact boxes, the same bits from the same seed, presence, and an X that shows more than RGB."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest

from tracker.data.synthetic import SyntheticConfig, SyntheticSequence, synthetic_dataset
from tracker.data.synthetic.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS, photograph
from tracker.data.synthetic.sensors import depth_camera, event_camera, thermal_camera
from tracker.errors import RGBXError

KINDS = ("rgb", "thermal", "depth", "event")


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_box_is_the_extent_of_the_target_drawn_alone(kind) -> None:
    checked = 0
    for sequence in synthetic_dataset(SyntheticConfig(modality=kind, length=24, seed=3), 6):
        scene = sequence.scene
        # A color that nothing behind it can have, so that every pixel that is drawn shows.
        scene.target.sprite.rgba[..., :3] = 255
        scene._canvas[...] = 0
        scene.target.veil = 0.0
        for i in np.flatnonzero(sequence.present):
            drawn = scene.compose(int(i), [scene.target])[0].max(axis=2) > 0
            assert extent(drawn) == sequence.boxes[i].tolist()
            np.testing.assert_array_equal(drawn, scene.target_mask(int(i)))
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("kind", ["thermal", "depth"])
def test_x_and_rgb_of_the_target_cover_the_same_pixels(kind) -> None:
    sequence = SyntheticSequence(SyntheticConfig(modality=kind, length=20, seed=8), 1)
    scene = sequence.scene
    scene._canvas_x = np.full_like(scene._canvas_x, -50.0)
    for i in np.flatnonzero(sequence.present)[::4]:
        x = scene.compose(int(i), [scene.target])[1]
        np.testing.assert_array_equal(x > -50.0, scene.target_mask(int(i)))


def test_presence_is_a_quarter_of_the_silhouette_in_view() -> None:
    config = SyntheticConfig(modality="rgb", length=60, seed=1, leave=1.0, occlusion=1.0, difficulty=1.0)
    absent = returned = partly = 0
    for sequence in synthetic_dataset(config, 8):
        scene = sequence.scene
        scene._canvas[...] = 0
        for actor in scene.actors:
            actor.veil = 0.0
            actor.sprite.rgba[..., :3] = 0
        others = [a for a in scene.actors if a is not scene.target]
        # A sprite of its own: look-alikes wear the target's.
        bare = scene.target.sprite.rgba.copy()
        bare[..., :3] = 255
        object.__setattr__(
            scene.target,
            "sprite",
            type(scene.target.sprite)(
                bare, *[getattr(scene.target.sprite, f) for f in ("warmth", "relief", "extent", "upright")]
            ),
        )
        for i in range(0, 60, 3):
            seen = scene.compose(i, [*others, scene.target])[0].max(axis=2) > 127
            whole = scene.silhouette(scene.target, i)[0].sum()
            share = seen.sum() / whole
            assert sequence.present[i] == (share >= 0.25), (sequence.name, i, share)
            partly += 0.25 <= share < 0.95
        present = sequence.present
        absent += not present.all()
        returned += bool((~present[:-1] & present[1:]).any())
        assert present[0]
    assert absent >= 7
    assert returned >= 5
    assert partly > 10


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_in_any_order(kind) -> None:
    config = SyntheticConfig(modality=kind, length=12, seed=4)
    forward, backward = SyntheticSequence(config, 2), SyntheticSequence(config, 2, cache=False)
    frames = [forward.frame(i).copy() for i in range(12)]
    for i in (11, 3, 4, 0, 7):
        np.testing.assert_array_equal(backward.frame(i), frames[i])
    np.testing.assert_array_equal(forward.boxes, backward.boxes)
    assert forward.render_all() is forward
    again = pickle.loads(pickle.dumps(forward))
    np.testing.assert_array_equal(again.frame(5), frames[5])
    other = SyntheticSequence(config, 3)
    assert not np.array_equal(other.frame(0), frames[0])
    reseeded = SyntheticSequence(SyntheticConfig(modality=kind, length=12, seed=5), 2)
    assert not np.array_equal(reseeded.frame(0), frames[0])


def test_another_process_renders_the_same_bits() -> None:
    code = (
        "import zlib; from tracker.data.synthetic import *; "
        "s = SyntheticSequence(SyntheticConfig(modality='thermal', length=6, seed=9), 0); "
        "print(zlib.crc32(s.frame(5).tobytes()), zlib.crc32(s.boxes.tobytes()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    s = SyntheticSequence(SyntheticConfig(modality="thermal", length=6, seed=9), 0)
    assert told.stdout.split() == [str(zlib.crc32(s.frame(5).tobytes())), str(zlib.crc32(s.boxes.tobytes()))]
    assert told.stderr == ""


def test_indices_are_positions_in_one_long_stream() -> None:
    config = SyntheticConfig(length=4, seed=2)
    many, some = synthetic_dataset(config, 4), synthetic_dataset(config, 2, first=2)
    assert [s.name for s in many[2:]] == [s.name for s in some]
    np.testing.assert_array_equal(many[3].frame(1), some[1].frame(1))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_six_channels_and_x_is_zero_without_a_sensor(kind) -> None:
    sequence = SyntheticSequence(SyntheticConfig(modality=kind, length=4, size=(160, 120)), 0)
    frame = sequence.frame(1)
    assert frame.shape == (120, 160, 6)
    assert frame.dtype == np.uint8
    assert sequence.rgb_only == (kind == "rgb")
    assert frame[:, :, 3:].any() == (kind != "rgb")
    raw = sequence.raw(1)[1]
    if kind == "depth":
        assert raw.dtype == np.uint16
    elif kind == "event":
        assert set(np.unique(raw)) <= {-1, 0, 1}
    elif kind == "thermal":
        np.testing.assert_array_equal(frame[:, :, 3], raw)
    else:
        assert raw is None


def test_test_photographs_are_not_training_photographs() -> None:
    assert not set(TRAIN_PHOTOGRAPHS) & set(TEST_PHOTOGRAPHS)
    for name in TRAIN_PHOTOGRAPHS + TEST_PHOTOGRAPHS:
        image = photograph(name)
        assert image.ndim == 3
        assert max(image.shape[:2]) <= 512
    a = SyntheticSequence(SyntheticConfig(length=3, split="train"), 0)
    b = SyntheticSequence(SyntheticConfig(length=3, split="test"), 0)
    assert not np.array_equal(a.frame(0), b.frame(0))


def contrast(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float))[mask].mean())


def test_thermal_shows_at_night_what_rgb_does_not() -> None:
    in_rgb, in_x = [], []
    config = SyntheticConfig(modality="thermal", length=12, seed=6, night=1.0, leave=0.0, occlusion=0.0, difficulty=0.3)
    for sequence in synthetic_dataset(config, 12):
        scene = sequence.scene
        assert scene.condition == "night"
        others = [a for a in scene.actors if a is not scene.target]
        i = int(np.flatnonzero(sequence.present)[-1])
        rgb, x = sequence.raw(i)
        everything, scene.actors = scene.actors, others
        plain_rgb, plain_x = scene.capture(i)
        scene.actors = everything
        mask = scene.target_mask(i)
        in_rgb.append(contrast(rgb, plain_rgb, mask))
        in_x.append(contrast(x, plain_x, mask))
    assert np.median(in_x) > 2 * np.median(in_rgb)
    assert min(in_x) > 15


def test_lookalikes_share_the_skin_and_not_the_temperature() -> None:
    config = SyntheticConfig(modality="thermal", length=6, seed=2, lookalike=1.0, x_failure=0.0)
    for sequence in synthetic_dataset(config, 10):
        scene = sequence.scene
        twins = [a for a in scene.actors if a is not scene.target and a.sprite is scene.target.sprite]
        assert len(twins) == scene.lookalikes >= 1
        assert all(abs(a.temperature[0] - scene.target.temperature[0]) > 0.15 for a in twins)


def test_shares_come_out_as_asked() -> None:
    scenes = [s.scene for s in synthetic_dataset(SyntheticConfig(length=2, night=0.3, fog=0.3, seed=7), 150)]
    for condition, share in (("night", 0.3), ("fog", 0.3), ("day", 0.4)):
        assert abs(np.mean([s.condition == condition for s in scenes]) - share) < 3.5 * np.sqrt(
            share * (1 - share) / 150
        )


def test_sensor_models() -> None:
    rng = np.random.default_rng(0)
    wall = np.full((60, 80), 3000.0, dtype=np.float32)
    wall[:, 40:] = 1000.0
    depth = depth_camera(wall, 4.0, 0.0, rng).astype(float)
    far, near = depth[:, :36], depth[:, 44:]
    # Noise goes with the square of the distance: 4 mm at 1 m, 36 mm at 3 m.
    np.testing.assert_allclose([near.std(), far.std()], [4.0, 36.0], rtol=0.1)
    assert (depth[:, 39:41] == 0).mean() > 0.3
    assert not (depth[:, :36] == 0).any()
    assert not depth_camera(np.full((60, 80), 20000.0, np.float32), 4.0, 0.0, rng).any()
    heat = np.full((60, 80), 0.5, np.float32)
    heat[20:40, 30:50] = 0.9
    cold = thermal_camera(heat, 0.0, 1.0, 0.8, 2.0, rng).astype(float)
    assert 0.35 * 235 < cold[25:35, 35:45].mean() - cold[:15].mean() < 0.45 * 235
    gray = np.full((60, 80, 3), 100, np.uint8)
    brighter = gray.copy()
    brighter[20:30, 20:30] = 140
    brighter[40:50, 20:30] = 70
    events = event_camera(gray, brighter, 0.15, 0.0, rng)
    assert (events[22:28, 22:28] == 1).all()
    assert (events[42:48, 22:28] == -1).all()
    assert not events[:15].any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"modality": "sonar"}, "modality is 'sonar'; expected one of thermal, depth, event, rgb"),
        ({"split": "val"}, "split is 'val'; expected one of train, test, all"),
        ({"size": (32, 32)}, "at least 64 pixels"),
        ({"length": 1}, "at least 2 frames"),
        ({"seed": -1}, "non-negative"),
        ({"night": 1.5}, r"night is 1.5; expected a number in \[0, 1\]"),
    ],
)
def test_configurations_are_checked(change, sentence) -> None:
    with pytest.raises(RGBXError, match=sentence):
        SyntheticConfig(**change)


def test_counts_and_indices_are_checked() -> None:
    with pytest.raises(RGBXError, match="count is 0"):
        synthetic_dataset(SyntheticConfig(), 0)
    with pytest.raises(RGBXError, match="index is -1"):
        SyntheticSequence(SyntheticConfig(), -1)
    sequence = SyntheticSequence(SyntheticConfig(length=3), 0)
    for call in (sequence.frame, sequence.raw, sequence.planes):
        with pytest.raises(IndexError):
            call(3)
