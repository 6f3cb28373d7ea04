"""Networks ready to run: from a checkpoint or an ONNX file to an engine and the settings that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tracker.errors import RGBXError
from tracker.inference.engine import Engine
from tracker.inference.fast import make_engine
from tracker.inference.online import InferenceSettings
from tracker.inference.onnx_engine import OnnxEngine
from tracker.models.checkpoints import find_weights
from tracker.tuning.files import load_tracker

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_engine(
    checkpoint: Path, device: str, precision: str, engine: str, changed: Mapping[str, Any]
) -> tuple[Engine, InferenceSettings]:
    """Load a checkpoint or an ONNX file.

    Args:
        checkpoint: file, name of shipped weights, or ONNX file of :func:`tracker.export.export_onnx`.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` and so on.
        precision: one of :data:`PRECISIONS`, of the network's weights and activations.
        engine: one of :data:`tracker.inference.fast.ENGINES`.
        changed: settings in place of the checkpoint's own.

    Returns:
        The engine, and the checkpoint's settings with ``changed`` ones in their place.

    Raises:
        RGBXError: an unknown device or precision, a device that is not there, weights that are not finite, or what
            loading raises.
    """
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise RGBXError(f"device {device!r} is unknown; choose auto, cpu, cuda, or cuda:1 and so on") from None
    if precision not in PRECISIONS:
        raise RGBXError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if checkpoint.suffix == ".onnx":
        if engine != "eager" or precision != "fp32":
            raise RGBXError(
                "an ONNX file has its precision and runs in ONNX Runtime; leave out --engine and --precision"
            )
        onnx = OnnxEngine(checkpoint, "cpu" if device == "auto" else place.type, torch.get_num_threads())
        return onnx, replace(onnx.settings, **changed)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise RGBXError(f"device {device} is not there: torch sees no GPU; use --device cpu")
    network, _, meta = load_tracker(find_weights(checkpoint))
    settings = replace(InferenceSettings.from_meta(meta), **changed)
    return make_engine(network.to(device=place, dtype=PRECISIONS[precision]), engine, settings.window), settings
