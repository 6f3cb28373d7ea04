"""Frames a second of one target in one video: engines and precisions in turns of one process.

What published trackers do is the baseline: fp32, eager, crops by OpenCV, box and score fetched one after the other.
The network is the ViT-B two-stream tracker at 128/256 on a GPU and the tiny one on a CPU; its weights are random, so
that boxes are compared elsewhere (`tests/tracker/inference/test_engines.py`). `SRFT_BENCH_TRACKER` names another
preset.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.timing import spread, wait
from benchmarks.workload import ROUNDS

FRAMES = 20
"""Of a turn."""
GPU_TARGET = 3.0
"""Times the published way's frames a second that the fastest engine has to reach on a GPU."""

Frame = Any
Row = dict[str, Any]


def published(network: Any, settings: Any) -> Callable[[Frame, Any], Any]:
    """Return a function of one frame as published trackers process it, from box to box."""
    from tracker.data.crop import crop_region
    from tracker.data.normalize import normalize
    from tracker.inference.engine import hann_window, network_device, planes
    from tracker.inference.online import clip_box
    from tracker.models.center_head import decode_boxes

    sizes = (network.config.template_size, network.config.search_size)
    device = network_device(network)[0]
    window = hann_window(network.config.search_cells).to(device)
    kept: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def step(frame: Frame, box: Any) -> Any:
        if not kept:
            crop = crop_region(frame, box, settings.template_factor, sizes[0])[0]
            kept["template"] = normalize(planes(crop)[None].to(device))
        crop, transform = crop_region(frame, box, settings.search_factor, sizes[1])
        output = network(kept["template"], normalize(planes(crop)[None].to(device)))
        score = output.score_map * window
        found = decode_boxes(score, output.size_map, output.offset_map)[0].tolist()
        score.max().item()
        return clip_box(transform.to_image(found), frame.shape[1], frame.shape[0])

    return step


def contestants(device: torch.device) -> dict[str, Callable[[], Callable[[Frame, Any], Any]]]:
    """Row to what makes a function of a frame and its box."""
    from tracker.inference import InferenceSettings, make_engine
    from tracker.inference.online import advance, start_target
    from tracker.models.config import PRESETS
    from tracker.models.tracker import build_network

    preset = os.environ.get("SRFT_BENCH_TRACKER", "vit_b_256" if device.type == "cuda" else "tiny")
    settings = InferenceSettings()

    def network(dtype: torch.dtype) -> Any:
        torch.manual_seed(0)
        return build_network(PRESETS[preset]()).eval().to(device=device, dtype=dtype)

    def engine(name: str, dtype: torch.dtype) -> Callable[[Frame, Any], Any]:
        runner = make_engine(network(dtype), name)
        targets: list[Any] = []

        def step(frame: Frame, box: Any) -> Any:
            if not targets:
                targets.append(start_target(frame, box, runner.template_size, settings))
            targets[0].box = box
            return advance(runner, targets, [frame], settings)[0].box

        return step

    def onnx() -> Callable[[Frame, Any], Any]:
        pytest.importorskip("onnxruntime")
        import tempfile

        from tracker.export import OnnxEngine, export_onnx

        with tempfile.TemporaryDirectory() as folder:
            runner = OnnxEngine(
                export_onnx(network(torch.float32), Path(folder) / "net.onnx"), threads=torch.get_num_threads()
            )
        target: list[Any] = []

        def step(frame: Frame, box: Any) -> Any:
            if not target:
                target.append(start_target(frame, box, runner.template_size, settings))
            target[0].box = box
            return advance(runner, target, [frame], settings)[0].box

        return step

    fp32, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
    rows: dict[str, Callable[[], Callable[[Frame, Any], Any]]] = {
        "published way, fp32": lambda: published(network(fp32), settings),
        "published way, again": lambda: published(network(fp32), settings),
        "eager, fp32": lambda: engine("eager", fp32),
        "compiled, fp32": lambda: engine("compiled", fp32),
    }
    if device.type == "cuda":
        rows |= {
            "eager, bf16": lambda: engine("eager", bf16),
            "graph, fp32": lambda: engine("graph", fp32),
            "graph, bf16": lambda: engine("graph", bf16),
            "graph, fp16": lambda: engine("graph", fp16),
            "compiled and graph, bf16": lambda: engine("compiled", bf16),
        }
    else:
        rows["ONNX Runtime, fp32"] = onnx
    return rows


def measure(device: torch.device) -> list[Row]:
    """Return frames a second of every contestant, on the same generated frames around the same boxes."""
    from tracker.data.synthetic import SyntheticConfig, synthetic_dataset

    sequence = next(iter(synthetic_dataset(SyntheticConfig(modality="thermal", length=FRAMES, size=(640, 480)), 1)))
    boxes = sequence.boxes[sequence.present]
    frames = [sequence.frame(index) for index in range(FRAMES)]
    running = {name: make() for name, make in contestants(device).items()}

    def turn(step: Callable[[Frame, Any], Any]) -> float:
        wait(device)
        start = time.perf_counter()
        for index, frame in enumerate(frames):
            step(frame, boxes[index % len(boxes)])
        wait(device)
        return time.perf_counter() - start

    for step in running.values():  # compiles, records, allocates
        turn(step)
    taken: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(ROUNDS):
        for name, step in running.items():
            taken[name].append(turn(step))
    baseline = statistics.median(taken["published way, fp32"])
    return [
        {
            "engine": name,
            "frames a second": FRAMES / statistics.median(seconds),
            "x published way": baseline / statistics.median(seconds),
            "spread": spread(seconds),
        }
        for name, seconds in taken.items()
    ]


def test_tracking_speed(benchmark: Any, device: torch.device, capsys: Any) -> None:
    for library in ("cv2", "pydantic", "timm", "tqdm", "skimage"):
        pytest.importorskip(library, reason=f"not measured: the tracker needs {library}")
    rows = benchmark.pedantic(measure, args=(device,), rounds=1)
    benchmark.extra_info["rows"] = rows
    with capsys.disabled():
        print()
        for row in rows:
            print(
                f"{row['engine']:<26} {row['frames a second']:8.1f} frames a second  "
                f"x {row['x published way']:.2f}  spread {100 * row['spread']:.1f} %"
            )
    if device.type == "cuda":
        assert max(row["x published way"] for row in rows) >= GPU_TARGET
