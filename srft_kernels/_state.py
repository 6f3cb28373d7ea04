"""What is kept for a parameter: made when the optimizer is wrapped, and laid out again when the parameter changes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from srft_kernels._inner import MOMENTS, InnerOptimizer
from srft_kernels._layout import (
    anchor_dtype,
    copy_beside,
    dense_strides,
    mean_of,
    rms_of,
    sum_of,
    zeros_beside,
)
from srft_kernels._options import owns_transfer, weighs_transfer
from srft_kernels.ops import contract
from srft_kernels.ops.contract import Inner
from srft_kernels.ops.tensors import element_dtype
from srft_kernels.sharded import is_distributed, local, shard_of

State: TypeAlias = MutableMapping[Tensor, dict[str, Any]]

# What the wrapper adds to a parameter's state. Everything else in it is the inner optimizer's.
EXTRA_STATE = ("anchor", "prior", "transfer", "transfer_step", "transfer_statistics", "transfer_histogram", "curvature")
SIZED_STATE = (*MOMENTS[Inner.ADAM], *MOMENTS[Inner.SGD], "anchor", "prior", "transfer", "curvature")
SMALLEST_RMS = 1e-3
SMALL = 1 << 14  # bytes: smaller tensors of state share memory with others
ALIGNED = 64  # bytes, so that vector instructions find every tensor aligned


class BesideInner(defaultdict[Tensor, Any]):
    """The state that a wrapper keeps beside an optimizer that is not fused and keeps its own state.

    It counts as empty while the inner optimizer's state is empty. ``torch.distributed.checkpoint`` tests whether
    ``optimizer.state`` is empty before it loads, and if so takes a step of length zero that makes the inner state.
    """

    def __init__(self, inner: Optimizer, values: Mapping[Any, Any] = {}) -> None:
        super().__init__(dict, values)
        self.inner = inner

    def __bool__(self) -> bool:
        return bool(self.inner.state)


def shared_state(inner: InnerOptimizer, beside: Mapping[Any, Any]) -> defaultdict[Tensor, Any]:
    """Return the state of a wrapper: the inner optimizer's own if that is fused, else what is ``beside`` it."""
    return inner.optimizer.state if inner.fused else BesideInner(inner.optimizer, beside)


def make(
    state: State,
    group: Mapping[str, Any],
    inner: InnerOptimizer,
    priors: Mapping[Tensor, Tensor],
    anchors: Mapping[Tensor, Tensor],
    curved: bool,
) -> None:
    """Make all state of a group's parameters at once, so that its memory is known before the first step.

    State that the inner optimizer has already is kept, so that training goes on. A frozen parameter gets its prior and
    its anchor now, for when it thaws, and the rest when it first has a gradient.

    Args:
        state: All state by parameter. A prior and an anchor that it has are replaced.
        group: The param group, with its options.
        inner: The optimizer inside.
        priors: The priors by parameter.
        anchors: The anchors by parameter. A parameter that is missing is anchored at its present value.
        curved: Whether the Hessian's diagonal is estimated during training.
    """
    for param in group["params"]:
        own = state[param]
        for name in ("prior", "anchor", "transfer_statistics", "curvature", "transfer"):
            own.pop(name, None)
        if group["regularize"]:
            prior = priors.get(param)
            if prior is not None:
                own["prior"] = copy_beside(param, element_dtype(param), prior)
            if curved and param.requires_grad:
                own["curvature"] = zeros_beside(param)
            pulls = prior is not None or (param.requires_grad and (curved or group["transfer_anchor"] == "initial"))
            if pulls:
                anchor = anchors.get(param, param.detach())
                own["anchor"] = copy_beside(param, anchor_dtype(param, anchor), anchor)
        if param.requires_grad:
            complete(state, group, inner, param, curved)
        elif own:
            set_count(own, inner, param)  # torch's Adam expects a count if there is any state
        else:
            del state[param]
    _gather_small([state[p] for p in group["params"] if p in state])


def _gather_small(states: Sequence[dict[str, Any]]) -> None:
    """Move small tensors of state with the same name and dtype into shared memory, which is saved as one entry.

    ``torch.save`` writes some four hundred bytes for every piece of memory, which is more than a bias takes.
    """
    small: dict[tuple[str, torch.dtype], list[dict[str, Any]]] = defaultdict(list)
    for own in states:
        for name, value in own.items():
            if name in SIZED_STATE and not is_distributed(value) and 0 < value.nbytes <= SMALL:
                small[name, value.dtype].append(own)
    for (name, dtype), owners in small.items():
        places = [-(-own[name].nbytes // ALIGNED) * ALIGNED // dtype.itemsize for own in owners]
        memory = torch.empty(sum(places), dtype=dtype, device=owners[0][name].device)
        for own, piece in zip(owners, memory.split(places), strict=True):
            value = own[name]
            own[name] = piece.as_strided(value.shape, value.stride()).copy_(value)


def complete(state: State, group: Mapping[str, Any], inner: InnerOptimizer, param: Tensor, curved: bool) -> None:
    """Make whatever the step of a parameter needs and lacks, as if no step had been taken.

    A parameter that has thawed only now is anchored at its present value, unless it was given an anchor before.
    """
    own = state[param]
    if group["regularize"]:
        if curved and "curvature" not in own:
            own["curvature"] = zeros_beside(param)
        if (curved or group["transfer_anchor"] == "initial") and "anchor" not in own:
            own["anchor"] = copy_beside(param, param.dtype, param)
    keeps_statistics = weighs_transfer(group, inner) or "curvature" in own
    if keeps_statistics and "transfer_statistics" not in own:
        own["transfer_statistics"] = torch.zeros(contract.STATISTICS, dtype=torch.float64, device=param.device)
    set_count(own, inner, param)
    for name in (*inner.moments(group), *(("transfer",) if owns_transfer(group, inner) else ())):
        if own.get(name) is None:
            own[name] = zeros_beside(param)
    lay_out(own, param)


def count_of(held: Mapping[str, Any], inner: InnerOptimizer) -> Any:
    """Return the count of steps that a parameter's state or its checkpoint holds, in the form in which it is there."""
    count = held.get(inner.counter)
    if count is None:  # torch's SGD keeps none
        count = 1.0 if held.get("momentum_buffer") is not None else 0.0
    return count


def set_count(own: dict[str, Any], inner: InnerOptimizer, param: Tensor) -> None:
    """Set the count of steps as float32 on the parameter's device, whatever form it had."""
    count = count_of(own, inner)
    fits = isinstance(count, Tensor) and count.dtype == torch.float32 and count.device == param.device
    if not (fits and count.dim() == 0):
        own[inner.counter] = torch.tensor(float(count), dtype=torch.float32, device=param.device)


def lay_out(own: dict[str, Any], param: Tensor) -> None:
    """Bring a parameter's state into the parameter's memory order and dtypes, also after either has changed."""
    for name, value in own.items():
        if name not in SIZED_STATE or not isinstance(value, Tensor):
            continue
        dtype = anchor_dtype(param, value) if name == "anchor" else element_dtype(param)
        misplaced = value.device != param.device or is_distributed(value) != is_distributed(param)
        if misplaced or value.dtype != dtype or local(value).stride() != dense_strides(local(param)):
            own[name] = copy_beside(param, dtype, value)


def misfit(param: Tensor, name: str, value: Any) -> str:
    """Return why no step could work with what a parameter's state holds under a name, or an empty string if one could.

    Args:
        param: The parameter.
        name: The state's name. It stands for a tensor of the parameter's shape, statistics of T, or a count of steps.
        value: What the state holds, which was set by hand or came with a checkpoint. None fits, because averages then
            begin anew.
    """
    if value is None:
        return ""
    shapes: tuple[tuple[int, ...], ...] = (tuple(param.shape),)
    if name == "transfer_statistics":
        shapes = ((contract.STATISTICS,), (contract.HISTOGRAM,))
    elif name == "transfer_histogram":
        shapes = ((contract.BINS,),)
    elif name not in SIZED_STATE:  # a count
        if isinstance(value, (int, float)):
            return "" if math.isfinite(value) and value >= 0 else f"{value}, not a count"
        shapes = ((), (1,))
    if not isinstance(value, Tensor):
        return f"{value!r:.100}, not a tensor"
    if value.layout != torch.strided or value.is_complex() or value.device.type == "meta":
        return f"{value.layout} and {value.dtype} on {value.device}, not real numbers in memory"
    if tuple(value.shape) not in shapes:
        return f"{tuple(value.shape)}, not {shapes[0]}"
    if name == "transfer_statistics":  # the sums behind the range may overflow, or propagate what is not finite
        value = torch.cat([value[: contract.SUM], value[contract.HISTOGRAM :]])
    if name not in SIZED_STATE and not bool(value.isfinite().all()):
        return "numbers that are not finite"
    return ""


def put(own: dict[str, Any], name: str, param: Tensor, value: Tensor | None) -> None:
    """Set a tensor of state, in its present memory if it fits. None sets zeros."""
    there = own.get(name)
    if value is None:
        if there is not None:
            local(there).zero_()
        return
    dtype = anchor_dtype(param, value) if name == "anchor" else element_dtype(param)
    fits = there is not None and there.dtype == dtype and there.shape == param.shape
    if there is not None and fits and local(there).stride() == dense_strides(local(param)):
        local(there).copy_(shard_of(value.detach(), param))
    else:
        own[name] = copy_beside(param, dtype, value)


def begin_task(
    state: State,
    group: Mapping[str, Any],
    priors: Mapping[Tensor, Tensor] | None,
    anchors: Mapping[Tensor, Tensor],
    gamma: float,
) -> None:
    """Give a group's parameters the anchor and the prior of the next task. Averages and their statistics stay.

    Args:
        state: All state by parameter.
        group: The param group, with its options.
        priors: The priors by parameter, or None to keep the present ones.
        anchors: The anchors by parameter. A parameter that is missing is anchored at its present value.
        gamma: The factor of the present prior, to which that of ``priors`` is added.
    """
    for param in group["params"]:
        own = state[param]
        if not group["regularize"]:
            own.pop("prior", None)
            own.pop("anchor", None)
        else:
            new = None if priors is None else priors.get(param)
            held = own.get("prior")
            if held is not None and gamma == 0 and new is None:
                del own["prior"]
            elif held is not None:
                local(held).mul_(gamma)
                if new is not None:
                    local(held).add_(shard_of(new.detach(), param).to(held.device, held.dtype))
            elif new is not None:
                put(own, "prior", param, new)
            if "prior" in own or "curvature" in own or group["transfer_anchor"] == "initial":
                put(own, "anchor", param, anchors.get(param, param.detach()))
            else:
                own.pop("anchor", None)
        if not own:
            del state[param]


def statistics_of(loaded: Mapping[str, Any], device: torch.device) -> Tensor:
    """Return statistics as the kernels keep them, from either form in which they are saved.

    They are empty if they were not saved.
    """
    rows = torch.zeros(contract.STATISTICS, dtype=torch.float64, device=device)
    saved = loaded.get("transfer_statistics")
    if saved is not None:
        rows[: saved.numel()] = saved.to(device, torch.float64)
    if "transfer_histogram" in loaded:
        rows[contract.HISTOGRAM :] = loaded["transfer_histogram"].to(device, torch.float64)
    return rows


def forget_statistics(own: Mapping[str, Any]) -> None:
    """Empty the statistics of T. The next step computes them from T itself. The sum of |H| stays."""
    statistics = own.get("transfer_statistics")
    if statistics is not None:
        kept = statistics[contract.CURVATURE_SUM].clone()
        statistics.zero_()
        statistics[contract.CURVATURE_SUM] = kept


def scales_of(state: State, groups: Sequence[Mapping[str, Any]]) -> dict[Tensor, tuple[float, float]]:
    """Return (1 / mean P, 1 / rho) of every parameter.

    Without a prior the first is 0; without an anchor the second has its largest value. The mean is over the tensor, or
    over all tensors of the groups that ask for a global mean, or 1. A mean below the smallest normal number of the
    compute dtype counts as 0, because its inverse would overflow. The host waits for the device.
    """
    means: dict[Tensor, float] = {}
    total, count = 0.0, 0
    for group in groups:
        for param in group["params"]:
            prior = state[param].get("prior") if param in state else None
            if prior is None or prior.numel() == 0:
                continue
            if group["normalize"] == "global":
                total += sum_of(prior)
                count += prior.numel()
            means[param] = 1.0 if group["normalize"] is None else mean_of(prior)
    scales = {}
    for group in groups:
        for param in group["params"]:
            mean = means.get(param, 0.0)
            if group["normalize"] == "global" and param in means:
                mean = total / count
            anchor = state[param].get("anchor") if param in state else None
            rho = rms_of(anchor) if anchor is not None and anchor.numel() else 0.0
            smallest = torch.finfo(element_dtype(param)).tiny
            scales[param] = (1 / mean if mean >= smallest else 0.0, 1 / max(rho, SMALLEST_RMS))
    return scales


def mass_of_priors(state: State, groups: Sequence[Mapping[str, Any]]) -> float:
    """Return the sum of P over all elements of all groups, on all ranks. The host waits for the device."""
    held = (state[param].get("prior") for group in groups for param in group["params"] if param in state)
    return sum(sum_of(prior) for prior in held if prior is not None and prior.numel())


def bytes_of(*states: Mapping[Any, Any]) -> dict[str, int]:
    """Return the bytes of state by name."""
    total: dict[str, int] = defaultdict(int)
    for state in states:
        for own in state.values():
            for name, value in own.items() if isinstance(own, Mapping) else ():
                if isinstance(value, Tensor):
                    total[name] += local(value).numel() * value.element_size()
    return dict(total)
