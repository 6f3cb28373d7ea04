"""Names of parameters, in messages and in mappings that users give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.sharded import local

SHOWN_AT_MOST = 10
# What torch.compile, DataParallel, FSDP and checkpoint_wrapper put into the names of the modules that they wrap.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def shortened(names: Sequence[str], at_most: int = SHOWN_AT_MOST, separator: str = ", ") -> str:
    """Return the first names of a list, and how many more there are."""
    shown = separator.join(names[:at_most])
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown


def name_of(param: Tensor, groups: Iterable[Mapping[str, Any]]) -> str:
    """Return a parameter's name in an optimizer, or its position and shape if it has no name."""
    for g, group in enumerate(groups):
        for i, candidate in enumerate(group["params"]):
            if candidate is param:
                names = group.get("param_names")
                return str(names[i]) if names else f"parameter {i} of group {g} {tuple(param.shape)}"
    return f"a parameter of shape {tuple(param.shape)}"


def without_wrappers(name: str) -> str:
    """Return a parameter's name without the parts that compiling or parallelizing its model has added."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def by_parameter(
    given: Any, groups: Sequence[Mapping[str, Any]], what: str, *, strict: bool, partial: bool = False
) -> dict[Tensor, Tensor]:
    """Return a mapping by name or by parameter as one by parameter.

    A name that fits no parameter exactly is compared again without the parts that ``torch.compile`` and parallel
    wrappers add on either side. It counts if exactly one name fits then.

    Args:
        given: The prior or the anchor that a user gave.
        groups: Param groups, with ``param_names`` if the optimizer was built from named parameters.
        what: ``"prior"`` or ``"anchor"``, for messages.
        strict: Whether to refuse tensors that have another shape than their parameter, and names that differ on both
            sides. If not, such tensors are left out.
        partial: Whether names may differ on both sides in any case, as those of a whole state dict do.

    Returns:
        The tensors that fit, by parameter.

    Raises:
        ValueError: If the mapping does not fit. The message names what differs and the remedy.
        TypeError: If it is not a mapping, or holds anything but dense tensors.
    """
    if not isinstance(given, Mapping):
        seen = repr(given) if isinstance(given, str) else type(given).__name__
        estimate = ": estimate it with srft.estimate_prior(model, loss_fn, batches, ...)" if what == "prior" else ""
        raise TypeError(
            f"the {what} must be a mapping of tensors by parameter name or by parameter, got {seen}{estimate}"
        )
    if not given:
        raise ValueError(f"the {what} is empty, so it would hold nothing: leave it out, or give one with tensors")
    params = [p for group in groups for p in group["params"]]
    if any(isinstance(key, str) for key in given):
        found = _by_name(given, groups, params, what, strict and not partial)
    else:
        found = {p: given[p] for p in params if p in given}
        if not found:
            raise ValueError(f"the {what} is keyed by parameter, and none of its keys is a parameter of this optimizer")
    for param, tensor in found.items():
        _check_tensor(tensor, f"the {what} of {name_of(param, groups)}")
    wrong = {p: t for p, t in found.items() if t.shape != p.shape}
    if wrong and strict:
        told = [f"{name_of(p, groups)}: {tuple(t.shape)}, not {tuple(p.shape)}" for p, t in wrong.items()]
        raise ValueError(
            f"the {what} has shapes that do not fit: {shortened(told)}; if these are new layers, such as a new head, "
            f"pass strict=False, which leaves them without"
        )
    return {p: t for p, t in found.items() if p not in wrong}


def _by_name(
    given: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]], params: Sequence[Tensor], what: str, strict: bool
) -> dict[Tensor, Any]:
    if any("param_names" not in group for group in groups):
        raise ValueError(
            f"the {what} is keyed by name, but the optimizer's parameters have none: "
            "build it from model.named_parameters(), or key the mapping by parameter"
        )
    odd = [key for key in given if not isinstance(key, str)]
    if odd:
        raise ValueError(f"the {what} has keys that are names and one that is {type(odd[0]).__name__}: use one kind")
    names = [str(name) for group in groups for name in group["param_names"]]
    keys = {name: name for name in names if name in given}
    left, spare = [n for n in names if n not in keys], [key for key in given if key not in set(names)]
    plain = {without_wrappers(key): key for key in spare}
    once = Counter(map(without_wrappers, spare))
    asked = Counter(map(without_wrappers, left))
    for name in left:
        short = without_wrappers(name)
        if once[short] == 1 and asked[short] == 1:
            keys[name] = plain[short]
    unexpected = sorted(set(given) - set(keys.values()))
    missing = sorted(set(names) - set(keys))
    if not keys:
        raise ValueError(
            f"the {what} fits no parameter: it names {shortened(unexpected)}; the optimizer has {shortened(missing)}"
        )
    if strict and unexpected and missing:
        raise ValueError(
            f"the {what} and the optimizer differ: it names {shortened(unexpected)}, which the optimizer lacks, "
            f"and lacks {shortened(missing)}, which the optimizer has; rename it, or pass strict=False if both are "
            "meant"
        )
    return {p: given[keys[n]] for p, n in zip(params, names, strict=True) if n in keys}


def _check_tensor(tensor: Any, called: str) -> None:
    if not isinstance(tensor, Tensor):
        remedy = ": torch.as_tensor(...) makes one of it" if hasattr(tensor, "__array__") or _is_list(tensor) else ""
        raise TypeError(f"{called} must be a tensor, got {type(tensor).__name__}{remedy}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{called} must be dense, got {tensor.layout}: call to_dense() on it")
    if tensor.is_meta:
        raise TypeError(f"{called} is on the meta device, which holds no values: load them first")
    if not tensor.is_floating_point():
        raise ValueError(f"{called} must be floating, got {tensor.dtype}")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def check_significance(tensor: Tensor, name: str) -> None:
    """Refuse a prior with negative or non-finite elements. If it is on a device, the host waits for it."""
    own = local(tensor)
    if own.numel() and not bool(((own >= 0) & own.isfinite()).all()):
        raise ValueError(
            f"the prior of {name} has elements that are negative or not finite: significance is finite and >= 0"
        )


def check_anchor(tensor: Tensor, name: str) -> None:
    """Refuse an anchor with elements that are not finite. If it is on a device, the host waits for it."""
    own = local(tensor)
    if own.numel() and not bool(own.isfinite().all()):
        raise ValueError(f"the anchor of {name} has elements that are not finite: a weight cannot be pulled there")


def checked_maps(
    prior: Any, anchor: Any, here: str, groups: Sequence[Mapping[str, Any]], strict: bool
) -> tuple[dict[Tensor, Tensor] | None, dict[Tensor, Tensor]]:
    """Return a prior and an anchor by parameter, and refuse them if they do not fit (:func:`by_parameter`).

    Args:
        prior: What a user gave, or None.
        anchor: What a user gave, or the word that stands for the present weights.
        here: That word.
        groups: The param groups.
        strict: As in :func:`by_parameter`.

    Returns:
        The priors, or None if none was given, and the anchors, empty if they are the present weights.

    Raises:
        ValueError: As :func:`by_parameter`, or if a tensor has values that cannot be used.
    """
    priors = None if prior is None else by_parameter(prior, groups, "prior", strict=strict)
    for param, tensor in (priors or {}).items():
        check_significance(tensor, name_of(param, groups))
    if isinstance(anchor, str):
        if anchor != here:
            raise ValueError(f"anchor must be {here!r} or a mapping of tensors, got {anchor!r}")
        return priors, {}
    anchors = by_parameter(anchor, groups, "anchor", strict=strict, partial=True)
    for param, tensor in anchors.items():
        check_anchor(tensor, name_of(param, groups))
    missing = [name_of(p, groups) for p in priors or {} if p not in anchors]
    if missing:
        raise ValueError(
            f"the anchor lacks {shortened(missing)}, for which there is a prior: give all, or anchor={here!r}"
        )
    return priors, anchors
