"""The frozen teacher of distillation: what it computes where its streams meet, and a folder that caches it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tracker.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tracker.errors import RGBXError
from tracker.files import atomic_file
from tracker.models.tracker import TwoStreamTracker
from tracker.tuning.distill_losses import TeacherTaps, separated, unit

BYTES_IN_GIGABYTE = 10**9


def pixels_of(crops: Tensor) -> Tensor:
    """Return the uint8 pixels that normalized crops ``(B, 6, S, S)`` were made of."""
    mean, std = (
        torch.tensor(values * 2, device=crops.device).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((crops.float() * std + mean) * 255.0).round().clamp(0, 255).to(torch.uint8)


class TapCache:
    """A folder of a teacher's outputs, with one file for each pair of crops.

    A file is found by the pixels of its crops and the teacher's weights, so that nothing else has to agree. Sample i of
    an epoch is the same whenever it is drawn. A run that is repeated with another student, with other weights of its
    losses or from a checkpoint therefore finds all that the first one computed.

    Args:
        folder: made if it does not exist.
        fingerprint: the teacher's.
        gigabytes: once the files of this teacher take as much, no more are written.
    """

    def __init__(self, folder: Path, fingerprint: str, gigabytes: float) -> None:
        self.folder = folder / fingerprint
        self.room = gigabytes * BYTES_IN_GIGABYTE
        self.room -= sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))

    def file(self, template: Tensor, search: Tensor) -> Path:
        """Return the file for the taps of one pair, given as uint8 pixels on the CPU."""
        digest = hashlib.blake2b(template.numpy().tobytes() + search.numpy().tobytes(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def load(self, file: Path) -> Tensor | None:
        """Return what is in a file, or None if there is none that can be read."""
        try:
            return safetensors.torch.load_file(file)["taps"]
        except (FileNotFoundError, KeyError, safetensors.SafetensorError):
            return None

    def store(self, file: Path, taps: Tensor) -> None:
        """Write ``taps`` if there is room. Raises RGBXError where the disk refuses."""
        content = safetensors.torch.save({"taps": taps.contiguous().cpu()})
        if self.room < len(content):
            return
        self.room -= len(content)
        with atomic_file(file) as opened:
            opened.write(content)


class Teacher(nn.Module):
    """A two-stream tracker that returns what its streams hold before and after each of their meetings.

    Its outputs are rounded to float16, so that a run is the same with and without a cache.

    Args:
        network: is frozen and put into evaluation mode. It must not eliminate candidates.
        cache: where outputs are kept.
        bf16: run it under autocast.

    Raises:
        RGBXError: the network has one stream, its streams do not meet, or it eliminates candidates.
    """

    def __init__(self, network: nn.Module, cache: TapCache | None = None, bf16: bool = False) -> None:
        super().__init__()
        if not isinstance(network, TwoStreamTracker) or not network.cross:
            raise RGBXError("a teacher needs two streams that meet in cross blocks; train one with `rgbx train` first")
        if network.config.keep_ratio < 1.0:
            raise RGBXError(f"a teacher keeps all search tokens, and this one {network.config.keep_ratio:g} of them")
        self.network = network.eval().requires_grad_(False)
        self.cache = cache
        self.bf16 = bf16
        self._met: list[Tensor] = []
        for block in network.cross:
            block.register_forward_hook(self._remember)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)

    def _remember(self, block: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, Any]) -> None:
        rgb, x = inputs[0].chunk(2, dim=1)
        after = torch.stack(outputs[0].chunk(2, dim=1)).mean(dim=0)
        self._met.append(torch.stack([*separated(rgb, x), unit(after)], dim=1).half())

    @torch.no_grad()
    def forward(self, template: Tensor, search: Tensor) -> TeacherTaps:
        """Return the taps of normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``."""
        if self.cache is None:
            taps = self._computed(template, search)
        else:
            taps = self._remembered(self.cache, template, search)
        common, specific, fused = taps.float().unbind(dim=1)
        return TeacherTaps(common, specific, fused)

    def _computed(self, template: Tensor, search: Tensor) -> Tensor:
        """Return ``(B, 3, K, N, D)`` float16: common, specific and fused."""
        self._met.clear()
        with torch.autocast(template.device.type, torch.bfloat16, enabled=self.bf16):
            self.network(template, search)
        taps = torch.stack(self._met, dim=2)
        self._met.clear()
        return taps

    def _remembered(self, cache: TapCache, template: Tensor, search: Tensor) -> Tensor:
        pixels = zip(pixels_of(template).cpu(), pixels_of(search).cpu(), strict=True)
        files = [cache.file(*pair) for pair in pixels]
        found = [cache.load(file) for file in files]
        missing = [index for index, taps in enumerate(found) if taps is None]
        if missing:
            for index, taps in zip(missing, self._computed(template[missing], search[missing]), strict=True):
                found[index] = taps
                cache.store(files[index], taps)
        return torch.stack([taps.to(template.device) for taps in found if taps is not None])
