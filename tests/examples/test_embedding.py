"""The examples run as they stand, and answer what the package does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.paths import REPOSITORY
from tests.tracker.inference.cases import moving
from tracker.inference import PairedCapture, Track, track_stream
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import tiny
from tracker.models.tracker import build_network

EXAMPLES = REPOSITORY / "examples"


BOX = "130.5,65,30,20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``net.safetensors``, and ``rgb.avi`` and ``x.avi`` whose channels differ, so that a wrong order would show."""
    folder = tmp_path_factory.mktemp("embed")
    torch.manual_seed(0)
    shape = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_channels": 8, "template_size": 32, "search_size": 64}
    network = build_network(tiny(kind="two_stream", **shape))
    save_network(folder / "net.safetensors", network, network.config, {"inference": {"search_factor": 4.0}})
    rng = np.random.default_rng(0)
    for name in ("rgb", "x"):
        writer = cv2.VideoWriter(str(folder / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (200, 150))
        tint = rng.uniform(0.3, 1, 3)
        for index in range(5):
            writer.write((moving("s", 5).frame(index)[:, :, :3] * tint + 20).astype(np.uint8))
        writer.release()
    return folder


def lines_of(example: str, network: Path, folder: Path) -> list[list[str]]:
    """Return what an example prints, a list of words a line."""
    videos = [str(folder / "rgb.avi"), str(folder / "x.avi")]
    command = [sys.executable, str(EXAMPLES / example), str(network), *videos, BOX]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def tracked(folder: Path) -> Track:
    network = load_network(folder / "net.safetensors")[0]
    with PairedCapture(str(folder / "rgb.avi"), str(folder / "x.avi")) as source:
        return track_stream(network, source, [float(v) for v in BOX.split(",")], progress=False)


def test_ten_lines_follow_a_target_through_two_videos(folder: Path) -> None:
    lines = lines_of("embed_tracker.py", folder / "net.safetensors", folder)
    assert {line[0] for line in lines} <= {"found", "lost"}
    boxes = [[float(v) for v in line[1:]] for line in lines]
    np.testing.assert_allclose(boxes, tracked(folder).boxes[1:], atol=0.006)


def test_onnx_runtime_follows_it_without_pytorch(folder: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the optional packages of [export]")
    from tracker.export import export_onnx

    network = load_network(folder / "net.safetensors")[0]
    path = export_onnx(network, folder / "net.onnx", simplify=False, whole_frames=True)
    values = np.array([[float(v) for v in line] for line in lines_of("embed_onnx.py", path, folder)])
    track = tracked(folder)
    np.testing.assert_allclose(values[:, 1:], track.boxes[1:], atol=0.1)
    np.testing.assert_allclose(values[:, 0], track.scores[1:], atol=2e-3)
    assert "torch" not in (EXAMPLES / "embed_onnx.py").read_text(encoding="utf-8").split("import sys")[1]


def test_the_loop_takes_ten_lines() -> None:
    _, _, program = (EXAMPLES / "embed_tracker.py").read_text(encoding="utf-8").split('"""')
    lines = program.splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 10
