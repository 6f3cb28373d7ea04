"""``tracker.Tracker`` has the calls of OpenCV's trackers, and answers as the online tracker does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tracker
from tests.tracker.inference.cases import moving
from tracker import Tracker
from tracker.data.depth import depth_to_image
from tracker.data.thermal import thermal_to_image
from tracker.errors import RGBXError
from tracker.inference import InferenceSettings, OnlineTracker
from tracker.inference.missing import Frame
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import tiny
from tracker.models.tracker import build_network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_channels": 8, "template_size": 32, "search_size": 64}
    network = build_network(tiny(kind="two_stream", **shape))
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_network(path, network, network.config, {"inference": {"search_factor": 5.0, "depth_style": "grey"}})
    return path


def noisy(length: int = 5) -> np.ndarray:
    """Return (N, H, W, 6) frames whose channels all differ."""
    return np.random.default_rng(0).integers(0, 256, (length, 60, 80, 6), dtype=np.uint8)


BOX = (30.0, 20.0, 16.0, 12.0)


def expected(checkpoint: Path, frames: list[np.ndarray | Frame], **settings: object) -> np.ndarray:
    network, _, meta = load_network(checkpoint)
    stored = InferenceSettings.from_meta(meta)
    online = OnlineTracker(network, InferenceSettings(**{**stored.__dict__, **settings}))
    online.initialize(frames[0], BOX)
    return np.stack([online.track(frame).box for frame in frames[1:]])


@pytest.mark.parametrize("form", ["array", "pair", "bgr pair", "bgr array"])
def test_every_form_of_a_frame_is_the_same_frame(checkpoint: Path, form: str) -> None:
    frames = noisy()
    given: list[object] = list(frames)
    if "pair" in form:
        given = [(frame[:, :, :3].copy(), frame[:, :, 3:].copy()) for frame in frames]
    if form == "bgr pair":
        given = [(frame[:, :, 2::-1].copy(), frame[:, :, :2:-1].copy()) for frame in frames]
    if form == "bgr array":
        given = [frame[:, :, [2, 1, 0, 5, 4, 3]] for frame in frames]
    follower = Tracker(checkpoint, bgr="bgr" in form)
    assert follower.settings.search_factor == 5.0
    follower.init(given[0], BOX)  # type: ignore[arg-type]
    assert follower.result is None
    boxes = []
    for frame in given[1:]:
        ok, box = follower.update(frame)  # type: ignore[arg-type]
        assert follower.result is not None
        assert ok == (follower.result.score > 0 and not follower.result.lost)
        boxes.append(box)
    np.testing.assert_array_equal(np.stack(boxes), expected(checkpoint, list(frames)))


def tripled(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[:, :, None], 3, axis=2)


def test_x_of_one_channel_in_8_bits_or_as_it_was_measured(checkpoint: Path) -> None:
    frames = noisy()
    gray = [frame[:, :, 3].copy() for frame in frames]
    raw = [1000 + 7 * image.astype(np.uint16) for image in gray]
    for images, pictures, modality in (
        (gray, [tripled(image) for image in gray], "depth"),
        (raw, [depth_to_image(image, "grey") for image in raw], "depth"),
        (raw, [tripled(thermal_to_image(image, "percentile")) for image in raw], "thermal"),
    ):
        follower = Tracker(checkpoint, modality=modality)
        follower.init((frames[0][:, :, :3], images[0]), BOX)
        boxes = [follower.update((f[:, :, :3], x)).box for f, x in zip(frames[1:], images[1:], strict=True)]
        whole = [np.concatenate([f[:, :, :3], p], axis=2) for f, p in zip(frames, pictures, strict=True)]
        np.testing.assert_array_equal(np.stack(boxes), expected(checkpoint, whole))


def test_a_half_that_has_not_arrived_and_none_at_all(checkpoint: Path) -> None:
    frames = noisy()
    rgb = [frame[:, :, :3].copy() for frame in frames]
    follower = Tracker(checkpoint, missing="mean")
    follower.init((rgb[0], None), BOX)
    boxes = [follower.update((image, None)).box for image in rgb[1:]]
    alone = [Frame(image, None) for image in rgb]
    np.testing.assert_array_equal(np.stack(boxes), expected(checkpoint, alone, missing="mean"))  # type: ignore[arg-type]
    ok, box = follower.update((None, None))
    assert not ok
    np.testing.assert_array_equal(box, boxes[-1])


def test_a_target_can_be_taken_again(checkpoint: Path) -> None:
    sequence = moving("s", 3)
    follower = Tracker(checkpoint)
    with pytest.raises(RGBXError, match="no target yet"):
        follower.update(sequence.frame(0))
    follower.init(sequence.frame(0), sequence.boxes[0])
    first = follower.update(sequence.frame(1)).box
    with pytest.raises(RGBXError, match="lies outside"):
        follower.init(sequence.frame(0), (900, 900, 5, 5))
    follower.init(sequence.frame(0), sequence.boxes[0])
    np.testing.assert_array_equal(follower.update(sequence.frame(1)).box, first)


def test_what_it_cannot_take_is_refused(checkpoint: Path) -> None:
    with pytest.raises(RGBXError, match=r"unexpected keyword argument 'serch_growth'.*fields of"):
        Tracker(checkpoint, serch_growth=1.2)
    with pytest.raises(RGBXError, match="modality is 'sonar'"):
        Tracker(checkpoint, modality="sonar")
    with pytest.raises(RGBXError, match="does not exist"):
        Tracker("no-such-network")
    with pytest.raises(RGBXError, match="precision 'int4' is unknown"):
        Tracker(checkpoint, precision="int4")
    follower = Tracker(checkpoint)
    with pytest.raises(RGBXError, match="a frame is list; expected an array, or the pair"):
        follower.init([1, 2], BOX)  # type: ignore[arg-type]
    with pytest.raises(RGBXError, match="a frame has shape"):
        follower.init(np.zeros((4, 4), np.uint8), BOX)
    with pytest.raises(RGBXError, match="of one size"):
        follower.init((np.zeros((40, 40, 3), np.uint8), np.zeros((20, 20), np.uint8)), BOX)


def test_the_package_exports_it_and_does_not_load_torch_for_that() -> None:
    assert tracker.__all__ == ["Tracker"]
    assert tracker.Tracker is Tracker
    with pytest.raises(AttributeError, match="has no attribute 'Trakcer'"):
        tracker.Trakcer  # noqa: B018
    check = "import sys, tracker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
