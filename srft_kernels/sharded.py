"""Parameters that FSDP2 shards (``DTensor``): their local shards, and what has to be summed over the mesh.

Kernels are elementwise and work on shards as they are. Only means, ranks and the question whether anything is not
finite need the other shards. Nothing here imports ``torch.distributed`` before a parameter is a ``DTensor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops.contract import COUNT, HISTOGRAM, LARGEST, LOW, SMALLEST, SUM


def is_distributed(tensor: Tensor) -> bool:
    """Return whether the tensor is a ``DTensor``."""
    return hasattr(tensor, "device_mesh")


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds elements of its own, instead of all holding the same."""
    return is_distributed(tensor) and not tensor.placements[0].is_replicate()  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Return this process's elements, in the same memory: all elements if the tensor is not distributed."""
    if not is_distributed(tensor):
        return tensor
    with torch.no_grad():
        shard: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return shard


def like(param: Tensor, shard: Tensor) -> Tensor:
    """Return ``shard`` as a tensor that is distributed as ``param`` is, in the same memory."""
    if not is_distributed(param):
        return shard
    from torch.distributed.tensor import DTensor

    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    return DTensor.from_local(shard, mesh, placements, shape=param.shape, stride=param.stride())


def rank_of(tensor: Tensor) -> int:
    """Return this process's position among those that hold a distributed tensor's shards."""
    return int(tensor.device_mesh.get_local_rank())  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return all elements of a tensor, on every process. This is a collective if the tensor is distributed."""
    return tensor.full_tensor() if is_distributed(tensor) else tensor  # type: ignore[attr-defined]


def shard_of(value: Tensor, param: Tensor) -> Tensor:
    """Return the elements of ``value`` that lie beside ``local(param)``.

    ``value`` is either full, and then the same on every process, or distributed.
    """
    if not is_distributed(param):
        return value.full_tensor() if is_distributed(value) else value  # type: ignore[attr-defined]
    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    if is_distributed(value):
        return local(value.redistribute(mesh, placements))  # type: ignore[attr-defined]
    from torch.distributed.tensor import distribute_tensor

    return local(distribute_tensor(value, mesh, placements, src_data_rank=None))


def check(param: Tensor, name: str, mesh: Any) -> Any:
    """Return the mesh of a distributed parameter. Refuse placements that are not FSDP2's, and a second mesh."""
    own, placements = param.device_mesh, tuple(param.placements)  # type: ignore[attr-defined]
    if own.ndim != 1 or not (placements[0].is_shard(0) or placements[0].is_replicate()):
        raise ValueError(
            f"{name} is distributed as {placements} over a mesh of {own.ndim} dimension(s): Shard(0) or Replicate() on "
            "a mesh of one dimension is supported, as fully_shard(module) makes it; keep it in another optimizer"
        )
    if mesh is not None and own != mesh:
        raise ValueError(f"{name} is on {own}, other parameters on {mesh}: make one optimizer for each mesh")
    return own


def totals(sums: Tensor, tensors: Sequence[Tensor], mesh: Any) -> Tensor:
    """Return ``sums`` (n,) over the local shards of ``tensors`` as sums over all shards. This is a collective."""
    if not any(is_sharded(t) for t in tensors):
        return sums
    sharded = torch.tensor([is_sharded(t) for t in tensors], device=sums.device)
    everywhere = sums.clone()
    torch.distributed.all_reduce(everywhere, group=mesh.get_group())
    return torch.where(sharded, everywhere, sums)


def anywhere(flag: Tensor, mesh: Any) -> Tensor:
    """Return the largest of the processes' values. This is a collective."""
    own = flag.full_tensor() if is_distributed(flag) else flag.clone()  # type: ignore[attr-defined]
    torch.distributed.all_reduce(own, torch.distributed.ReduceOp.MAX, group=mesh.get_group())
    return own


def probe_numbers(groups: Sequence[Mapping[str, Any]], mesh: Any) -> dict[Tensor, int]:
    """Return the numbers that key the random signs of each parameter. Each shard has signs of its own."""
    params = [p for group in groups for p in group["params"]]
    first = 0 if mesh is None else mesh.get_local_rank() * len(params)
    return {p: number + (first if is_sharded(p) else 0) for number, p in enumerate(params)}


class Sharing:
    """Turns the statistics of shards into those of whole tensors, the same on every process.

    Then the next step's ranks and means are right. The ranges of histograms follow from the statistics, so all
    processes count in the same bins.

    A step costs one small collective for SUM and COUNT, or two for ranks (2 KB a parameter).

    Args:
        mesh: The mesh of the distributed parameters.
        params: The parameters, one for each row of statistics.
        device: Where the rows are.
    """

    def __init__(self, mesh: Any, params: Sequence[Tensor], device: torch.device) -> None:
        self.mesh = mesh
        self._group = mesh.get_group()
        self._sharded = [i for i, p in enumerate(params) if is_sharded(p)]
        self._rows = torch.tensor(self._sharded, dtype=torch.int64, device=device)
        empty = [local(p).numel() == 0 for p in params]
        self._empty = torch.tensor([empty[i] for i in self._sharded], dtype=torch.bool, device=device)
        sized = [i for i, none in enumerate(empty) if not none]
        self._first = sized[0] if sized and any(empty) else None
        self._without = torch.tensor([i for i, none in enumerate(empty) if none], dtype=torch.int64, device=device)

    def share(self, rows: Tensor, by_rank: bool, by_global_mean: bool, found_inf: Tensor | None) -> None:
        """Share the rows after a step that gathered.

        If ``found_inf`` skipped it on the device, they were shared already.
        """
        before = None if found_inf is None else rows.clone()
        rows[self._rows] = self._reduced(rows[self._rows], self._empty, by_rank)
        if by_global_mean:
            self.add_empty(rows)
        if before is not None and found_inf is not None:
            rows.copy_(torch.where(found_inf.reshape(()) != 0, before, rows))

    def of_row(self, row: int, by_rank: bool) -> Callable[[Tensor], None] | None:
        """Return a function that shares one row, or None if all processes have the same row already."""
        if row not in self._sharded:
            return None
        k = self._sharded.index(row)

        def share(statistics: Tensor) -> None:
            own = statistics.to(self._rows.device)[None]
            statistics.copy_(self._reduced(own, self._empty[k : k + 1], by_rank)[0])

        return share

    def known(self, full: Tensor) -> Tensor:
        """Return which rows are filled on any process, with the same answer on all. This is a collective."""
        return anywhere(full.float(), self.mesh) > 0

    def add_empty(self, rows: Tensor) -> None:
        """Move the sums of tensors without elements to another row.

        Kernels skip tensors without elements, and a tensor whose shard is empty is one of them. If the mean over all
        tensors counts, their sums have to be in a row that is read.
        """
        if self._first is not None:
            rows[self._first, SUM : COUNT + 1] += rows[self._without, SUM : COUNT + 1].sum(dim=0)
            rows[self._without, SUM : COUNT + 1] = 0.0

    def _reduced(self, rows: Tensor, empty: Tensor, by_rank: bool) -> Tensor:
        summed = slice(HISTOGRAM, None) if by_rank else slice(SUM, COUNT + 1)
        sums = rows[:, summed].masked_fill(empty[:, None], 0.0)
        if by_rank:
            # No kernel keeps the range of an empty shard, and the extent of a shard that has only zeros means nothing.
            extent = rows[:, LOW : LARGEST + 1].clone()
            extent[:, SMALLEST].neg_()
            extent[:, SMALLEST:].masked_fill_((sums[:, 1:].sum(dim=1) == 0)[:, None], -torch.inf)
            extent.masked_fill_(empty[:, None], -torch.inf)
            torch.distributed.all_reduce(extent, torch.distributed.ReduceOp.MAX, group=self._group)
            extent.masked_fill_(extent == -torch.inf, 0.0)
            extent[:, SMALLEST].neg_()
            rows[:, LOW : LARGEST + 1] = extent
        sums = sums.contiguous()
        torch.distributed.all_reduce(sums, group=self._group)
        rows[:, summed] = sums
        return rows
