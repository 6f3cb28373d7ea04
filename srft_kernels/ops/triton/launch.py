"""What every launch needs from the host: the chunks of tensors, tables on the device, and Triton's names of dtypes."""

from __future__ import annotations

import contextlib
import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CHUNK = 8192  # elements of one program; a multiple of the histogram's sampling group
BLOCK = 512  # elements that a program has in registers at a time
COMPILED = {"num_warps": 4, "enable_fp_fusion": True}  # four elements a thread: 16 bytes of float32


def element_type(dtype: torch.dtype) -> Any:
    """Return Triton's name of a dtype."""
    language = importlib.import_module("triton.language")
    return getattr(language, str(dtype).removeprefix("torch."))


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context that makes ``device`` the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Mirror:
    """A vector on a device that follows numbers of the host.

    It is sent when they change, without waiting for the device.

    Under capture it is always sent, from memory that is kept, because every replay sends that memory again. After a
    capture it is sent every time, because a replay may have sent older numbers than the last call.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._on_device = torch.zeros(size, dtype=dtype, device=device)
        self._sent: list[Any] | None = None
        self._captured: list[Tensor] = []
        # allocated before a capture, in which page-locked memory cannot be allocated
        self._spare: Tensor | None = self._page_locked()

    def _page_locked(self) -> Tensor:
        return torch.empty(self._on_device.shape, dtype=self._on_device.dtype, pin_memory=self._pinned)

    def of(self, numbers: list[Any]) -> Tensor:
        capturing = self._pinned and torch.cuda.is_current_stream_capturing()
        if numbers == self._sent and not capturing and not self._captured:
            return self._on_device
        # torch reuses page-locked memory only after the copies from it are done.
        staged = self._page_locked() if self._spare is None or not capturing else self._spare
        staged.copy_(torch.tensor(numbers, dtype=staged.dtype))
        if capturing:
            self._captured.append(staged)
            self._spare = None
        elif self._spare is None:
            self._spare = self._page_locked()
        self._on_device.copy_(staged, non_blocking=True)
        self._sent = numbers
        return self._on_device


@lru_cache(maxsize=32)
def owners_of(sizes: tuple[int, ...], device: torch.device) -> tuple[tuple[int, ...], Tensor]:
    """Return the number of chunks before each tensor's, with the total at the end, and the tensor of each chunk."""
    counts = torch.tensor([-(-size // CHUNK) for size in sizes], dtype=torch.int64)
    before = (0, *counts.cumsum(0).tolist())
    owners = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), counts)
    return before, owners.to(device)


# Keeps alive the tables that a captured graph sends at every replay.
_captured: list[Tensor] = []


def sent(numbers: list[int], device: torch.device) -> Tensor:
    """Return a table for one call on the device, without waiting for it."""
    table = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(table)
    return table.to(device, non_blocking=True)
