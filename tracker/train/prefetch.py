"""Batches on the device one step ahead: the copy to a GPU and its crops run while the step before is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tracker.data.device_crop import WindowBatch


class Batch(NamedTuple):
    """What a training step takes: crops (B, 6, H, W) uint8 and boxes (B, 4), on the device."""

    template: Tensor
    search: Tensor
    box: Tensor


def on_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """Move a batch, and make its crops there if it holds windows."""

    def crops(value: Tensor | WindowBatch) -> Tensor:
        moved = value.to(device, non_blocking=True)
        return moved.crops() if isinstance(moved, WindowBatch) else moved

    return Batch(crops(batch["template"]), crops(batch["search"]), batch["box"].to(device, non_blocking=True))


def ahead(batches: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """Yield batches on ``device``. On a GPU, a stream of its own makes each one while the one before is worked on.

    On a CPU there is nothing to overlap. Data are pure functions of their index, so a batch that was fetched and is not
    used costs only its time.
    """
    if device.type != "cuda":
        for batch in batches:
            yield on_device(batch, device)
        return
    source, beside = iter(batches), torch.cuda.Stream(device)

    def sent() -> Batch | None:
        batch = next(source, None)
        if batch is None:
            return None
        with torch.cuda.stream(beside):
            return on_device(batch, device)

    upcoming = sent()
    while upcoming is not None:
        working = torch.cuda.current_stream(device)
        working.wait_stream(beside)
        current = upcoming
        for tensor in current:
            tensor.record_stream(working)
        upcoming = sent()
        yield current
