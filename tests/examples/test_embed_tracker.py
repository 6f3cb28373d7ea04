"""The examples run as they stand, and answer what the package does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from tests.paths import REPOSITORY
from tests.tracker.inference.test_inference import moving
from tracker.inference import PairedCapture, track_stream
from tracker.models.build import build_network
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import tiny

EXAMPLE = REPOSITORY / "examples" / "embed_tracker.py"


def test_ten_lines_follow_a_target_through_two_videos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_channels": 8, "template_size": 32, "search_size": 64}
    network = build_network(tiny(kind="two_stream", **shape))
    save_network(tmp_path / "net.safetensors", network, network.config, {"inference": {"search_factor": 4.0}})
    rng = np.random.default_rng(0)
    for name in ("rgb", "x"):
        writer = cv2.VideoWriter(str(tmp_path / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (200, 150))
        tint = rng.uniform(0.3, 1, 3)  # so that a wrong order of channels would show
        for index in range(5):
            writer.write((moving("s", 5).frame(index)[:, :, :3] * tint + 20).astype(np.uint8))
        writer.release()
    videos = [str(tmp_path / "rgb.avi"), str(tmp_path / "x.avi")]
    box = "130.5,65,30,20"
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "net.safetensors"), *videos, box]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} <= {"found", "lost"}
    loaded = load_network(tmp_path / "net.safetensors")[0]
    with PairedCapture(*videos) as source:
        track = track_stream(loaded, source, [float(v) for v in box.split(",")], progress=False)
    np.testing.assert_allclose([[float(v) for v in line[1:]] for line in lines], track.boxes[1:], atol=0.006)


def test_the_loop_takes_ten_lines() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()[1:]
    assert sum(bool(line.strip()) for line in lines) <= 10
