"""Running exported trackers in ONNX Runtime, in the place of a network."""

from __future__ import annotations

import json
from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tracker.data.crop import CropTransform
from tracker.errors import RGBXError
from tracker.inference.engine import Engine, host_crops
from tracker.inference.online import InferenceSettings

METADATA_KEY = "rgbx_tracker"
"""Under which a file says how it is run: one JSON object."""
INSTALL = 'pip install "srft-kernels[export]"'
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine(Engine):
    """An ONNX file of :func:`tracker.export.onnx_export.export_onnx` that takes crops.

    Args:
        path: the file.
        device: ``cpu`` or ``cuda`` (which needs onnxruntime-gpu).
        threads: of one operator on the CPU; 0 leaves it to ONNX Runtime.

    Attributes:
        settings: that it was exported with. The window is part of the graph.

    Raises:
        RGBXError: onnxruntime is not installed, it has no such device, or the file is none of ours or takes whole
            frames.
    """

    name = "onnx"

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise RGBXError(f"running {path} needs onnxruntime, which is not installed; {INSTALL}") from None
        if PROVIDERS.get(device) not in onnxruntime.get_available_providers():
            raise RGBXError(f"this onnxruntime cannot run on {device!r}; use cpu, or install onnxruntime-gpu for cuda")
        if not Path(path).is_file():
            raise RGBXError(f"{path} does not exist; make it with `rgbx export onnx`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # its exceptions have no common base but this
            reason = str(error).strip().splitlines()[0]
            raise RGBXError(f"{path} cannot be run ({reason}); export it again with `rgbx export onnx`") from error
        stored = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if stored is None:
            raise RGBXError(f"{path} does not say how it is to be run; make it with `rgbx export onnx`")
        meta = json.loads(stored)
        if meta.get("input", "crops") != "crops":
            raise RGBXError(
                f"{path} takes whole frames, one target at a time, for programs of one's own "
                "(examples/embed_onnx.py); export it without --whole-frames to run it here"
            )
        self.template_size, self.search_size = int(meta["template_size"]), int(meta["search_size"])
        self.settings = InferenceSettings.from_meta(meta)
        self._fingerprint = str(meta["fingerprint"])

    def locate(self, templates: Tensor, frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> np.ndarray:
        pixels = {"template": templates.numpy(), "search": host_crops(frames, regions).numpy()}
        for name, images in pixels.items():
            if images.shape[1] == 3:  # X is missing from the frames themselves
                pixels[name] = np.concatenate([images, np.zeros_like(images)], axis=1)
        box, score, peak = self._session.run(["box", "score", "peak"], pixels)
        return np.concatenate([box, score[:, None], peak[:, None]], axis=1).astype(np.float64)

    def fingerprint(self) -> str:
        return self._fingerprint
