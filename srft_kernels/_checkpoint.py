"""State dicts: the inner optimizer's own plus what the wrapper adds, as plain data, and how they load in place."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from srft_kernels import _options, _state
from srft_kernels._inner import InnerOptimizer
from srft_kernels._names import name_of, shortened
from srft_kernels._state import EXTRA_STATE, SIZED_STATE
from srft_kernels.ops import contract
from srft_kernels.schedule import schedule_from_state, schedule_state

Groups: TypeAlias = list[dict[str, Any]]
StateDict: TypeAlias = dict[str, Any]


# ---------------------------------------------------------------- saving


def pack(groups: Groups, state: Mapping[Tensor, Mapping[str, Any]], inner: InnerOptimizer) -> StateDict:
    """Return the wrapper's state dict, before the wrapper's own hooks run. The inner optimizer's hooks run once each.

    Without the names of :data:`EXTRA_STATE` it is a checkpoint that the inner optimizer loads by itself. As in torch,
    the tensors are the live ones. Only the statistics of T are copies, because they are saved in fewer bytes.

    Args:
        groups: The param groups, which are the inner optimizer's too.
        state: The wrapper's state by parameter.
        inner: The optimizer inside.

    Returns:
        A dict with ``"state"`` by index and ``"param_groups"``.
    """
    ids: dict[Tensor, int] = {}
    for group in groups:
        for param in group["params"]:
            ids.setdefault(param, len(ids))
    histograms = _compact([(p, s["transfer_statistics"]) for p, s in state.items() if "transfer_statistics" in s])
    own = {ids[p]: {**s, **histograms.get(p, {})} for p, s in state.items() if p in ids}
    optimizer = inner.optimizer
    if inner.fused:
        run_hooks(optimizer, "_optimizer_state_dict_pre_hooks")
        packed: StateDict = {
            "state": own,
            "param_groups": [{**plain_group(g), "params": [ids[p] for p in g["params"]]} for g in groups],
        }
        found: StateDict = run_hooks(optimizer, "_optimizer_state_dict_post_hooks", packed)
        return found
    with _first_of(optimizer, "state_dict_post", _make_plain):
        packed = {**optimizer.state_dict()}
    _make_plain(optimizer, packed)
    inner_state: Any = dict(packed["state"])
    for index, extra in own.items():
        inner_state[index] = {**inner_state.get(index, {}), **extra}
    return {**packed, "state": inner_state}


def plain_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with its schedule as a dictionary and its pair as a list, for ``weights_only`` loading."""
    plain = dict(group)
    if callable(group.get("kappa")):
        plain["kappa"] = schedule_state(group["kappa"])
    if "mu" in group:
        plain["mu"] = list(group["mu"])
    return plain


def _make_plain(_: Optimizer, packed: StateDict) -> None:
    packed["param_groups"] = [plain_group(group) for group in packed["param_groups"]]


def _compact(rows: Sequence[tuple[Tensor, Tensor]]) -> dict[Tensor, dict[str, Tensor]]:
    """Return statistics as eight float64 numbers and a histogram of small integers.

    Rows of one dtype share one tensor. A tensor of n elements has counts of at most n, so each bin of its histogram
    takes one, two or four bytes.
    """
    found: dict[Tensor, dict[str, Tensor]] = {}
    if not rows:
        return found
    together = torch.stack([row for _, row in rows])
    heads = together[:, : contract.HISTOGRAM].clone()
    for dtype, largest, smallest in ((torch.uint8, 0xFF, -1), (torch.int16, 0x7FFF, 0xFF), (torch.int32, None, 0x7FFF)):
        chosen = [
            k for k, (p, _) in enumerate(rows) if p.numel() > smallest and (largest is None or p.numel() <= largest)
        ]
        counts = together[chosen, contract.HISTOGRAM :].to(dtype)
        for k, count in zip(chosen, counts.unbind(), strict=True):
            found[rows[k][0]] = {"transfer_statistics": heads[k], "transfer_histogram": count}
    return found


# ---------------------------------------------------------------- loading


def check(loaded: StateDict, groups: Groups, inner: InnerOptimizer) -> list[dict[str, Any]]:
    """Refuse a state dict that does not fit, before anything is changed.

    Args:
        loaded: The state dict.
        groups: The optimizer's param groups.
        inner: The optimizer inside.

    Returns:
        The options of each group after loading, as the group will hold them.

    Raises:
        ValueError: If groups, shapes or options do not fit. The message names them.
    """
    saved = loaded["param_groups"]
    sizes = [len(g["params"]) for g in saved], [len(g["params"]) for g in groups]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the checkpoint has parameter groups of sizes {sizes[0]}, this optimizer {sizes[1]}")
    wrong = []
    known = (*SIZED_STATE, *EXTRA_STATE, inner.counter)
    for theirs, ours in zip(saved, groups, strict=True):
        for key, param in zip(theirs["params"], ours["params"], strict=True):
            for name, value in loaded["state"].get(key, {}).items():
                found = _state.misfit(param, name, value) if name in known else ""
                if found:
                    wrong.append(f"{name} of {name_of(param, groups)}: {found}")
    if wrong:
        raise ValueError(f"the checkpoint does not fit this model: {shortened(wrong)}")
    options = []
    for theirs, ours in zip(saved, groups, strict=True):
        merged = {**ours, **theirs, "params": ours["params"]}
        if isinstance(merged["kappa"], Mapping):
            merged["kappa"] = schedule_from_state(merged["kappa"], live=ours["kappa"])
        options.append(_options.checked(merged, inner))
    return options


def load(optimizer: Optimizer, inner: InnerOptimizer, state: _state.State, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict into an optimizer's groups and state.

    All hooks run here except the wrapper's own post-hooks, which the caller runs last.

    Args:
        optimizer: The wrapper.
        inner: The optimizer inside.
        state: The wrapper's state, whose tensors are overwritten in place.
        state_dict: What :func:`pack` returned, or a checkpoint of the inner optimizer alone.

    Raises:
        ValueError: If it does not fit. Nothing is changed then.
    """
    loaded = run_hooks(optimizer, "_optimizer_load_state_dict_pre_hooks", dict(state_dict))
    if not inner.fused:
        options = check(loaded, optimizer.param_groups, inner)
        optimizer.param_groups = load_beside(loaded, optimizer.param_groups, options, state, inner)
        return
    loaded = run_hooks(inner.optimizer, "_optimizer_load_state_dict_pre_hooks", loaded)
    options = check(loaded, optimizer.param_groups, inner)
    load_fused(loaded, optimizer.param_groups, options, state, inner)
    run_hooks(inner.optimizer, "_optimizer_load_state_dict_post_hooks")


def load_fused(
    loaded: StateDict, groups: Groups, options: Sequence[Mapping[str, Any]], state: _state.State, inner: InnerOptimizer
) -> None:
    """Load a checked state dict. Tensors that fit are overwritten in place.

    Averages and counts that the state dict lacks begin anew. An anchor, a prior or an H that it lacks stays as it is.
    """
    for theirs, group, chosen in zip(loaded["param_groups"], groups, options, strict=True):
        saved = {k: v for k, v in theirs.items() if k != "params"}
        group.update(copy.deepcopy(saved) | dict(chosen))
        for key, param in zip(theirs["params"], group["params"], strict=True):
            values = loaded["state"].get(key, {})
            if not values and param not in state:
                continue
            own = state[param]
            _load_extra(own, param, values, inner)
            for name in inner.moments(group):
                if name in own or values.get(name) is not None:
                    _state.put(own, name, param, values.get(name))


def load_beside(
    loaded: StateDict, groups: Groups, options: Sequence[Mapping[str, Any]], state: _state.State, inner: InnerOptimizer
) -> Groups:
    """Let an inner optimizer that is not fused load its own part, then load what the wrapper keeps beside it.

    Returns:
        The param groups after loading, which are the inner optimizer's.
    """
    optimizer = inner.optimizer
    before = [dict(group) for group in groups]

    def adopt(_: Optimizer) -> None:
        for old, group, chosen in zip(before, optimizer.param_groups, options, strict=True):
            group.update({key: value for key, value in old.items() if key not in group})
            group.update(chosen)

    parts = {
        key: {k: v for k, v in values.items() if k not in EXTRA_STATE} if isinstance(values, Mapping) else values
        for key, values in loaded["state"].items()
    }
    with _first_of(optimizer, "load_state_dict_post", adopt):
        optimizer.load_state_dict({**loaded, "state": {key: values for key, values in parts.items() if values != {}}})
    adopt(optimizer)
    for theirs, group in zip(loaded["param_groups"], optimizer.param_groups, strict=True):
        for key, param in zip(theirs["params"], group["params"], strict=True):
            values = loaded["state"].get(key, {})
            if not any(name in values for name in EXTRA_STATE) and param not in state:
                continue
            _load_extra(state[param], param, values, inner)
    return optimizer.param_groups


def _load_extra(own: dict[str, Any], param: Tensor, values: Mapping[str, Any], inner: InnerOptimizer) -> None:
    """Load what the wrapper keeps and the count of steps. If the count is on a device, the host waits for it."""
    if values or inner.counter in own:
        count = float(_state.count_of(values, inner))
        own[inner.counter] = torch.tensor(count, dtype=torch.float32, device=param.device)
    for name in ("prior", "anchor", "curvature"):
        if name in values:
            _state.put(own, name, param, values[name])
    if "transfer" in own or "transfer" in values:
        _state.put(own, "transfer", param, values.get("transfer"))
    if "transfer_statistics" in own or "transfer_statistics" in values:
        own["transfer_statistics"] = _state.statistics_of(values, param.device)


# ---------------------------------------------------------------- hooks


def run_hooks(optimizer: Optimizer, which: str, state_dict: StateDict | None = None) -> Any:
    """Run all of an optimizer's hooks of one kind as torch does. Each hook may return another state dict."""
    for hook in list(getattr(optimizer, which, {}).values()):
        answer = hook(optimizer) if state_dict is None else hook(optimizer, state_dict)
        if answer is not None and state_dict is not None:
            state_dict = answer
    return state_dict


@contextlib.contextmanager
def _first_of(optimizer: Optimizer, kind: str, hook: Any) -> Iterator[None]:
    """Register a hook for the block, so that it runs before an optimizer's own hooks of that kind."""
    if not hasattr(optimizer, f"_optimizer_{kind}_hooks"):  # a wrapper that never called Optimizer.__init__
        yield
        return
    handle = getattr(optimizer, f"register_{kind}_hook")(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()
