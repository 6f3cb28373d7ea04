"""A tracker as an ONNX file: pixels in, box out."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracker.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tracker.errors import RGBXError
from tracker.inference.engine import Locator, network_fingerprint, network_sizes
from tracker.inference.online import InferenceSettings

METADATA_KEY = "rgbx_tracker"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
INSTALL = 'pip install "srft-kernels[export]"'


class _Outputs(nn.Module):
    """A locator's answer as three named outputs."""

    def __init__(self, locator: Locator) -> None:
        super().__init__()
        self.locator = locator

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.locator(template, search)
        return found[:, :4], found[:, 4], found[:, 5]


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    settings: InferenceSettings | None = None,
    *,
    precision: str = "fp32",
    simplify: bool = True,
) -> Path:
    """Write a network with everything between crops and boxes into one ONNX file, whole or not at all.

    Inputs: ``template (batch, 6, Hz, Hz)`` and ``search (batch, 6, Hs, Hs)`` uint8, RGB first and X last, as cropped
    by :mod:`tracker.data.crop`. Outputs, float32: ``box (batch, 4)``, cx, cy, w, h relative to the search crop;
    ``score`` and ``peak (batch,)``, as in :class:`tracker.inference.online.Result`. Normalization, Hann window and
    decoding are in the graph; the batch may be of any size. The metadata hold one JSON object under
    ``rgbx_tracker``: sizes, factors, normalization, precision, configuration.

    Args:
        network: a tracker, tuned or not, which carries its ``config``; left as it is.
        settings: the factors and the window that it is run with.
        precision: of the weights and of what lies between normalization and the head's maps: ``fp32`` or ``fp16``.
        simplify: fold constants and fuse nodes (onnxscript's optimizer).

    Raises:
        RGBXError: an unknown precision, or onnx or onnxscript is not installed.
    """
    if precision not in PRECISIONS:
        raise RGBXError(f"precision {precision!r} cannot be exported; choose one of {', '.join(PRECISIONS)}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RGBXError(f"exporting needs onnx and onnxscript, and {error.name} is missing; {INSTALL}") from None
    settings = settings or InferenceSettings()
    path = Path(path)
    # On the CPU and in a copy: the network's owner may go on training it.
    exported = copy.deepcopy(network).to(device="cpu", dtype=PRECISIONS[precision]).eval()
    template_size, search_size = network_sizes(network)
    # A batch of one would be taken for a constant.
    examples = tuple(torch.zeros(2, 6, size, size, dtype=torch.uint8) for size in (template_size, search_size))
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter, about itself
        # Strict, or `len(tensor)` in a network would make the batch a constant.
        traced = torch.export.export(
            _Outputs(Locator(exported, settings.window)),
            examples,
            dynamic_shapes={"template": {0: batch}, "search": {0: batch}},
            strict=True,
        )
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=["template", "search"],
            output_names=["box", "score", "peak"],
            optimize=simplify,
            verbose=False,
        )
    # Of every node the exporter keeps the stack of Python calls that it came from: a fifth of the file, with paths.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    config: Any = network.config
    content = {
        "template_size": template_size,
        "search_size": search_size,
        "inference": asdict(settings),
        "normalization": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "where": "in the graph"},
        "precision": precision,
        "network": config.to_dict(),
        "fingerprint": network_fingerprint(exported),
    }
    program.model.metadata_props[METADATA_KEY] = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        program.save(partial, external_data=False)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return path
