"""What runs a network on crops: eager, compiled, as a CUDA graph, or in ONNX Runtime.

Every engine returns the same: the best box of every search region, its score and the peak, in one copy to the host.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from collections.abc import Sequence as ListLike
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tracker.data.crop import CropTransform, sample_region
from tracker.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tracker.errors import RGBXError, shortened
from tracker.models.center_head import decode_boxes
from tracker.models.checkpoints.fingerprint import network_fingerprint as weights_fingerprint

DEFAULT_PATCH = 16


def hann_window(cells: int) -> Tensor:
    """Return the outer product of 0.5 * (1 - cos(2 pi k / (S + 1))), k = 1..S, as (1, 1, S, S) float32.

    The zeros at k = 0 and S + 1 lie outside, so that no cell is ruled out. (OSTrack convention.)
    """
    k = torch.arange(1, cells + 1, dtype=torch.float64)
    line = 0.5 * (1.0 - torch.cos(2.0 * math.pi * k / (cells + 1)))
    return torch.outer(line, line)[None, None].float()


def network_device(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where a network's parameters live and their floating dtype; the CPU and float32 if it has none."""
    for parameter in network.parameters():
        return parameter.device, parameter.dtype if parameter.is_floating_point() else torch.float32
    return torch.device("cpu"), torch.float32


@contextmanager
def evaluation_mode(network: nn.Module | Engine) -> Iterator[None]:
    """Hold a network in evaluation mode and put every module's own flag back afterward."""
    if isinstance(network, Engine):
        yield
        return
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def network_sizes(network: nn.Module | Engine) -> tuple[int, int]:
    """Return the sides of the template and search crops in pixels, from ``network.config``.

    Raises:
        RGBXError: the network does not carry its configuration.
    """
    if isinstance(network, Engine):
        return network.template_size, network.search_size
    config: Any = getattr(network, "config", None)
    try:
        return int(config.template_size), int(config.search_size)
    except AttributeError:
        raise RGBXError(
            f"{type(network).__name__} has no config with template_size and search_size; make it with "
            "tracker.models.build_network or load_network"
        ) from None


def network_fingerprint(network: nn.Module | Engine) -> str:
    """Return 16 hexadecimal digits that tell one network from another, from its weights or from what an engine says."""
    return network.fingerprint() if isinstance(network, Engine) else weights_fingerprint(network)


def check_finite(network: nn.Module) -> None:
    """Refuse weights that are not finite, because all answers would be discarded without a warning.

    Raises:
        RGBXError: a parameter or buffer with a NaN or an infinity; names the first.
    """
    broken = [
        name
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise RGBXError(
            f"the network's weights are not finite ({shortened(broken)}); its training diverged before they were "
            "saved, so use an earlier checkpoint"
        )


class Locator(nn.Module):
    """A network from pixels to boxes: normalization before it, window and decoding behind it.

    This is what is compiled, captured and exported, so that every way of running a network computes the same.

    Args:
        network: answers a :class:`tracker.models.tracker.TrackerOutput`; its maps have ``config.search_size /
            config.patch`` cells a side (patch 16 where the configuration has none).
        window: weigh the score map with a Hann window before the best cell is chosen.
    """

    shift: Tensor
    scale: Tensor
    hann: Tensor

    def __init__(self, network: nn.Module, window: bool = True) -> None:
        super().__init__()
        self.network = network
        self.window = window
        config: Any = getattr(network, "config", None)
        cells = network_sizes(network)[1] // int(getattr(config, "patch", DEFAULT_PATCH))
        device, self.dtype = network_device(network)
        for name, values in (("shift", IMAGENET_MEAN), ("scale", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values * 2, device=device).view(-1, 1, 1) * 255.0)
        self.register_buffer("hann", hann_window(cells).to(device))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize as :func:`tracker.data.normalize.normalize`, from constants that are on the device already."""
        channels = pixels.shape[1]
        return (pixels.float() - self.shift[:channels]) / self.scale[:channels]

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """Locate targets in crops of pixel levels.

        Args:
            template: (B, C, Hz, Hz).
            search: (B, C, Hs, Hs).

        Returns:
            (B, 6) float32: cx, cy, w, h relative to the search crop, score and peak (see
            :class:`tracker.inference.online.Result`).
        """
        output = self.network(self.normalize(template).to(self.dtype), self.normalize(search).to(self.dtype))
        score = torch.nan_to_num(output.score_map.float(), nan=0.0, posinf=0.0, neginf=0.0)
        windowed = score * self.hann if self.window else score
        boxes = decode_boxes(windowed, output.size_map.float(), output.offset_map.float())
        levels = [values.flatten(1).amax(dim=1, keepdim=True) for values in (windowed, score)]
        return torch.cat([boxes, *levels], dim=1)


class Engine(abc.ABC):
    """Runs one network on one device.

    Attributes:
        template_size, search_size: sides of the crops that it takes, in pixels.
        name: for reports.
    """

    template_size: int
    search_size: int
    name: str

    @abc.abstractmethod
    def locate(self, templates: Tensor, frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> np.ndarray:
        """Find B targets, each in its own frame.

        Args:
            templates: (B, C, Hz, Hz) uint8 on the CPU.
            frames: (H, W, C) uint8 each.
            regions: where to search.

        Returns:
            (B, 6) float64: cx, cy, w, h relative to the region, score, peak. Boxes may be anything, also not finite.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that tell one network from another."""


def planes(crop: np.ndarray) -> Tensor:
    """Turn a crop (H, W, C) into a (C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def host_crops(frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> Tensor:
    """Cut crops with OpenCV: (B, C, size, size) uint8."""
    return torch.stack([planes(sample_region(f, r)) for f, r in zip(frames, regions, strict=True)])


class EagerEngine(Engine):
    """The network as it stands, on whatever device and in whatever precision its parameters are.

    It has to be in evaluation mode while it runs (:func:`evaluation_mode`).

    Raises:
        RGBXError: the network does not carry its configuration, or its weights are not finite.
    """

    name = "eager"

    def __init__(self, network: nn.Module, window: bool = True) -> None:
        self.template_size, self.search_size = network_sizes(network)
        check_finite(network)
        self.locator = Locator(network, window)

    def locate(self, templates: Tensor, frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> np.ndarray:
        device, dtype = network_device(self.locator.network)
        if (device, dtype) != (self.locator.hann.device, self.locator.dtype):  # the network has been moved
            self.locator = Locator(self.locator.network, self.locator.window)
        with torch.inference_mode():
            found = self.locator(templates.to(device), host_crops(frames, regions).to(device))
        return np.asarray(found.cpu().double().numpy())

    def fingerprint(self) -> str:
        return network_fingerprint(self.locator.network)


def as_engine(network: nn.Module | Engine, window: bool) -> Engine:
    """Return an engine as it is, and a network as one that runs eagerly."""
    return network if isinstance(network, Engine) else EagerEngine(network, window)
