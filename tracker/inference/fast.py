"""Ways of running a network faster than eagerly: ``torch.compile``, and a CUDA graph from the pixels to the box.

A frame costs an eager network hundreds of launches, each of microseconds on the host, and at one frame a batch the GPU
waits for them. A CUDA graph replays them from a record. The crop is recorded too: the host copies the pixels of a
window that the region touches (of any size, into a buffer that grows), and sampling happens on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tracker.data.crop import CropTransform, cut_window
from tracker.data.device_crop import sample_windows
from tracker.errors import RGBXError
from tracker.inference.engine import (
    EagerEngine,
    Engine,
    Locator,
    check_finite,
    host_crops,
    network_fingerprint,
    network_sizes,
)

SMALLEST_BUFFER = 2**18
"""Pixels of a target's window that there is room for at first: 512 x 512."""
WARM_UP = 3
ENGINES = ("eager", "compiled", "graph")


class _BatchSizes:
    """Batch sizes that are ready; a smaller batch is filled up to one of them, or each would be prepared anew."""

    def __init__(self) -> None:
        self.ready: list[int] = []

    def fitting(self, batch: int) -> int:
        enough = [size for size in self.ready if size >= batch]
        if not enough:
            self.ready.append(batch)
        return min(enough, default=batch)


class CompiledEngine(Engine):
    """A network through ``torch.compile``, crops by OpenCV; on the CPU. The first frame takes a minute or so.

    Args:
        network: left as it is, but for evaluation mode, which it is put in and has to stay in.
        window: see :class:`tracker.inference.engine.Locator`.
    """

    name = "compiled"

    def __init__(self, network: nn.Module, window: bool = True) -> None:
        self.template_size, self.search_size = network_sizes(network)
        self.locator = Locator(network.eval(), window)
        self._run: Callable[[Tensor, Tensor], Tensor] = torch.compile(self.locator, dynamic=False)
        self._sizes = _BatchSizes()

    def locate(self, templates: Tensor, frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> np.ndarray:
        count = len(templates)
        fill = torch.arange(self._sizes.fitting(count)).clamp(max=count - 1)
        device = self.locator.hann.device
        crops = host_crops(frames, regions)
        with torch.inference_mode():
            found = self._run(templates[fill].to(device), crops[fill].to(device))
        return found[:count].cpu().double().numpy()

    def fingerprint(self) -> str:
        return network_fingerprint(self.locator.network)


@dataclass
class _Capture:
    """A captured graph, with the buffers that it reads and writes.

    Each buffer exists once on the device and once in page-locked memory, from where copies need not wait.
    """

    graph: torch.cuda.CUDAGraph
    pixels: tuple[Tensor, Tensor]
    geometry: tuple[Tensor, Tensor]
    templates: tuple[Tensor, Tensor]
    found: tuple[Tensor, Tensor]

    def upload(self, used: int) -> None:
        for host, device in ((self.pixels[0][:used], self.pixels[1][:used]), self.geometry, self.templates):
            device.copy_(host, non_blocking=True)


class GraphEngine(Engine):
    """Crop, network, window and decoding in one CUDA graph: a frame is three copies in, one launch, one copy out.

    Args:
        network: on a GPU, in fp32, fp16 or bf16; left as it is, but for evaluation mode. Its weights may be
            changed in place afterward; its number of tokens (:meth:`set_keep_ratio`) may not.
        window: see :class:`tracker.inference.engine.Locator`.
        compile: put the network through ``torch.compile`` first, which fuses what lies between the matrix products.

    Raises:
        RGBXError: the network is not on a GPU.
    """

    name = "graph"

    def __init__(self, network: nn.Module, window: bool = True, compile: bool = False) -> None:
        self.template_size, self.search_size = network_sizes(network)
        self.locator = Locator(network.eval(), window)
        self.device = self.locator.hann.device
        if self.device.type != "cuda":
            raise RGBXError(f"a CUDA graph needs the network on a GPU, and it is on {self.device}; use engine compiled")
        self.name = "compiled" if compile else "graph"
        self._run: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self.locator, dynamic=False) if compile else self.locator
        )
        self._sizes = _BatchSizes()
        self._captures: dict[tuple[int, int], _Capture] = {}

    @torch.inference_mode()
    def locate(self, templates: Tensor, frames: ListLike[np.ndarray], regions: ListLike[CropTransform]) -> np.ndarray:
        count, channels = templates.shape[:2]
        size = self._sizes.fitting(count)
        windows = [cut_window(frame, region) for frame, region in zip(frames, regions, strict=True)]
        used = max(1, sum(pixels.shape[0] * pixels.shape[1] for pixels, _ in windows))
        with torch.cuda.device(self.device):
            capture = self._captures.get((size, channels))
            fresh = capture is None or len(capture.pixels[0]) < used
            if fresh:
                capture = self._captures[size, channels] = self._buffers(size, channels, used)
            assert capture is not None
            pack_windows(windows, capture.pixels[0].numpy(), capture.geometry[0].numpy())
            capture.templates[0][:count] = templates
            capture.templates[0][count:] = templates[-1]
            capture.upload(used)
            if fresh:
                self._record(capture)
            capture.graph.replay()
            capture.found[0].copy_(capture.found[1], non_blocking=True)
            torch.cuda.current_stream().synchronize()
        return capture.found[0][:count].double().numpy()

    def _buffers(self, batch: int, channels: int, used: int) -> _Capture:
        room = batch * SMALLEST_BUFFER
        while room < used:
            room *= 2
        side = self.template_size

        def pair(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            return torch.zeros(shape, dtype=dtype).pin_memory(), torch.zeros(shape, dtype=dtype, device=self.device)

        return _Capture(
            torch.cuda.CUDAGraph(),
            pair(room, channels, dtype=torch.uint8),
            pair(batch, 6, dtype=torch.float64),
            pair(batch, channels, side, side, dtype=torch.uint8),
            pair(batch, 6, dtype=torch.float32),
        )

    def _record(self, capture: _Capture) -> None:
        def step() -> None:
            spans, regions = capture.geometry[1].split(3, dim=1)
            crops = sample_windows(capture.pixels[1], spans, regions, self.search_size).permute(0, 3, 1, 2)
            capture.found[1].copy_(self._run(capture.templates[1], crops))

        # The first calls choose algorithms, allocate workspaces and compile, none of which can be recorded.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(side_stream)
        with torch.cuda.graph(capture.graph):
            step()

    def fingerprint(self) -> str:
        return network_fingerprint(self.locator.network)


def pack_windows(windows: ListLike[tuple[np.ndarray, CropTransform]], pixels: np.ndarray, geometry: np.ndarray) -> None:
    """Fill ``pixels`` (P, C) and ``geometry`` (B, 6), spans and regions as ``sample_windows`` takes them, in place.

    A region wholly outside of its frame has an empty window, for which one black pixel's place is read at weight zero.
    Rows of ``geometry`` beyond the windows repeat the last one.
    """
    start = 0
    for row, (window, inside) in zip(geometry, windows, strict=False):
        height, width = window.shape[:2]
        count = height * width
        pixels[start : start + count].reshape(window.shape)[...] = window
        row[:] = (start, max(1, height), max(1, width), inside.x, inside.y, inside.side)
        if count == 0:
            row[:3] = (0, 1, 1)
            row[3:] = (-3.0 - inside.side, 0.0, inside.side)  # left of that one pixel
        start += count
    geometry[len(windows) :] = geometry[len(windows) - 1]


def make_engine(network: nn.Module, engine: str = "eager", window: bool = True) -> Engine:
    """Make one of :data:`ENGINES` around a network, which is put in evaluation mode.

    ``compiled`` is ``torch.compile``, and on a GPU a CUDA graph of what it makes; ``graph`` is a CUDA graph of the
    eager network, ready in a second.

    Raises:
        RGBXError: an unknown engine, or a graph where the network is not on a GPU.
    """
    if engine not in ENGINES:
        raise RGBXError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    check_finite(network)
    if engine == "eager":
        return EagerEngine(network.eval(), window)
    if engine == "compiled" and next(network.parameters()).device.type == "cpu":
        return CompiledEngine(network, window)
    return GraphEngine(network, window, compile=engine == "compiled")
