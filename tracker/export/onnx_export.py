"""A tracker as an ONNX file: pixels in, box out."""

from __future__ import annotations

import copy
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracker.data.device_crop import sample_windows
from tracker.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tracker.errors import RGBXError
from tracker.files import atomic_path
from tracker.inference.engine import Locator, check_finite, network_fingerprint, network_sizes
from tracker.inference.online import SMALLEST_SIDE, InferenceSettings
from tracker.inference.onnx_engine import INSTALL, METADATA_KEY
from tracker.models.tracker import Tracker
from tracker.tuning.base import TunedTracker

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


class _Outputs(nn.Module):
    """A locator's answer as three named outputs."""

    def __init__(self, locator: Locator) -> None:
        super().__init__()
        self.locator = locator

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.locator(template, search)
        return found[:, :4], found[:, 4], found[:, 5]


class _WholeFrames(nn.Module):
    """One frame of one target, as :func:`tracker.inference.online.advance`: crops, network, and back to the image.

    Args:
        locator: the network with normalization, window and decoding.
        settings: the factors of the crops.
    """

    def __init__(self, locator: Locator, settings: InferenceSettings) -> None:
        super().__init__()
        self.locator, self.settings = locator, settings
        self.template_size, self.search_size = network_sizes(locator.network)

    def forward(self, frame: Tensor, last_box: Tensor, template: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answer a box (4,), score (), peak () and template crop for a frame (H, W, 6), a box (4,) and a template."""
        last = last_box.double()
        corner, side = self._region(last, self.settings.search_factor)
        search = self._crop(frame, corner, side, self.search_size)
        found = self.locator(template[None], search[None])[0].double()
        size = found[2:4] * side
        box = torch.cat([found[:2] * side + corner - size / 2, size])
        usable = (found[4] > 0) & torch.isfinite(box).all() & (size > 0).all()
        # Inside the image, with a pixel a side, as tracker.inference.online.clip_box has it.
        limit = torch.stack([self._length(frame, 1), self._length(frame, 0)]).double()
        low = torch.minimum(box[:2].clamp(min=0.0), limit - SMALLEST_SIDE)
        high = torch.minimum(torch.maximum(box[:2] + box[2:], low + SMALLEST_SIDE), limit)
        clipped = torch.cat([low, high - low])
        answer = torch.where(usable, clipped, last)
        score = torch.where(usable, found[4], torch.zeros_like(found[4]))
        around = self._crop(frame, *self._region(last, self.settings.template_factor), self.template_size)
        return answer.float(), score.float(), found[5].float(), around

    @staticmethod
    def _length(frame: Tensor, axis: int) -> Tensor:
        return torch.scalar_tensor(frame.shape[axis], dtype=torch.int64)

    @staticmethod
    def _region(box: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Return the top left corner (2,) and the side () of the square around a box, as ``crop_transform`` has it."""
        side = factor * (box[2] * box[3]).sqrt()
        return box[:2] + box[2:] / 2 - side / 2, side

    def _crop(self, frame: Tensor, corner: Tensor, side: Tensor, size: int) -> Tensor:
        height, width = self._length(frame, 0), self._length(frame, 1)
        spans = torch.stack([torch.zeros_like(height), height, width])[None]
        regions = torch.cat([corner, side[None]])[None]
        crop = sample_windows(frame.reshape(-1, frame.shape[2]), spans, regions, size)[0]
        return crop.permute(2, 0, 1).to(torch.uint8)


def export_onnx(
    network: Tracker | TunedTracker,
    path: str | os.PathLike[str],
    settings: InferenceSettings | None = None,
    *,
    precision: str = "fp32",
    simplify: bool = True,
    whole_frames: bool = False,
) -> Path:
    """Write a network with everything between pixels and boxes into one ONNX file, whole or not at all.

    With crops cut outside of the graph (the default), inputs are ``template (batch, 6, Hz, Hz)`` and ``search (batch,
    6, Hs, Hs)`` uint8, RGB first and X last, as cropped by :mod:`tracker.data.crop`. Outputs, float32, are ``box
    (batch, 4)``, cx, cy, w, h relative to the search crop, and ``score`` and ``peak (batch,)``, as in
    :class:`tracker.inference.online.Result`. Normalization, Hann window and decoding are in the graph; the batch may
    be of any size.

    With ``whole_frames`` the crops are in the graph as well, for one target at a time. Inputs are ``frame (height,
    width, 6)`` uint8 of any size, ``last_box (4,)`` float32 ``x, y, w, h`` in pixels and ``template (6, Hz, Hz)``
    uint8. Outputs are ``box (4,)`` ``x, y, w, h`` in pixels, inside the image, ``score`` and ``peak ()``, and
    ``crop (6, Hz, Hz)`` uint8, the template region around ``last_box``: asked for alone in the first frame, it is the
    template of all others.

    The metadata hold one JSON object under ``rgbx_tracker``: sizes, factors, normalization, precision, configuration.

    Args:
        network: left as it is.
        path: the file.
        settings: the factors and the window that it is run with.
        precision: of the weights and of what lies between normalization and the head's maps: ``fp32`` or ``fp16``.
        simplify: fold constants and fuse nodes (onnxscript's optimizer). Without it, ONNX Runtime up to 1.23 cannot run
            an fp16 file on the CPU.
        whole_frames: put the crops into the graph.

    Raises:
        RGBXError: an unknown precision, weights that are not finite, or onnx or onnxscript is not installed.
    """
    if precision not in PRECISIONS:
        raise RGBXError(f"precision {precision!r} cannot be exported; choose one of {', '.join(PRECISIONS)}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RGBXError(f"exporting needs onnx and onnxscript, and {error.name} is missing; {INSTALL}") from None
    settings = settings or InferenceSettings()
    check_finite(network)
    path = Path(path)
    # On the CPU and in a copy: the network's owner may go on training it.
    exported = copy.deepcopy(network).to(device="cpu", dtype=PRECISIONS[precision]).eval()
    template_size, search_size = network_sizes(network)
    locator = Locator(exported, settings.window)
    dynamic: dict[str, Any]
    examples: tuple[Tensor, ...]
    if whole_frames:
        module: nn.Module = _WholeFrames(locator, settings)
        outputs = ["box", "score", "peak", "crop"]
        examples = (
            torch.zeros(48, 64, 6, dtype=torch.uint8),
            torch.tensor([8.0, 8.0, 16.0, 16.0]),
            torch.zeros(6, template_size, template_size, dtype=torch.uint8),
        )
        height, width = (torch.export.Dim(name, min=2, max=2**15) for name in ("height", "width"))
        dynamic = {"frame": {0: height, 1: width}, "last_box": None, "template": None}
    else:
        module, outputs = _Outputs(locator), ["box", "score", "peak"]
        # A batch of one would be taken for a constant.
        examples = tuple(torch.zeros(2, 6, size, size, dtype=torch.uint8) for size in (template_size, search_size))
        batch = torch.export.Dim("batch", min=1, max=4096)
        dynamic = {"template": {0: batch}, "search": {0: batch}}
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter, about itself
        # Strict, or `len(tensor)` in a network would make the batch a constant.
        traced = torch.export.export(module, examples, dynamic_shapes=dynamic, strict=True)
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(dynamic),
            output_names=outputs,
            optimize=simplify,
            verbose=False,
        )
    # Of every node the exporter keeps the stack of Python calls that it came from: a fifth of the file, with paths.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    content = {
        "template_size": template_size,
        "search_size": search_size,
        "inference": asdict(settings),
        "normalization": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "where": "in the graph"},
        "precision": precision,
        "input": "whole frames" if whole_frames else "crops",
        "network": network.config.to_dict(),
        "fingerprint": network_fingerprint(exported),
    }
    program.model.metadata_props[METADATA_KEY] = json.dumps(content)
    with atomic_path(path) as part:
        program.save(part, external_data=False)
    return path
