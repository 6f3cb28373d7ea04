"""The significance penalty as a function, for use in the loss instead of in the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from srft_kernels.ops import penalty as _operators
from srft_kernels.ops.tensors import element_dtype
from srft_kernels.significance.estimate import fisher_diagonal, hessian_diagonal, hutchinson_diagonal

__all__ = ["Tensors", "fisher_diagonal", "hessian_diagonal", "hutchinson_diagonal", "significance_penalty"]

Tensors: TypeAlias = Sequence[Tensor] | Mapping[str, Tensor]


def significance_penalty(
    params: Tensors,
    anchors: Tensors,
    significance: Tensors,
    strength: float | Tensor,
    *,
    normalize: Literal["none", "tensor", "global"] = "none",
) -> Tensor:
    """Return the penalty of elastic weight consolidation over lists of tensors (arXiv 1612.00796, equation 3).

        ``R = 1/2 · strength · Σ_k Σ_i P_ki (θ_ki - a_ki)²``

    With ``normalize="none"`` this is the raw weighted quadratic, and ``strength`` has the unit of one over the
    significance, as in the literature. ``"tensor"`` divides every P_k by its own mean, and ``"global"`` divides all of
    them by their common mean over elements. Both divide in every call, and differentiably. For a significance that
    stays the same it is cheaper to divide once beforehand (:meth:`SignificanceMap.normalized`). A P with a mean of zero
    stays zero.

    Args:
        params: The weights θ: a list of tensors, or a mapping by parameter name. They may have any real floating dtype
            and any strides, and be empty or 0-d. All tensors are on one device.
        anchors: What the weights are pulled to, in the same order or under the same names, with equal shapes.
        significance: The weights P of the squares, likewise. A mapping may leave out a parameter, whose P is then 0. A
            significance without a parameter or an anchor is refused.
        strength: A float, or a 0-d floating tensor on any device. A captured CUDA graph reads a tensor on the
            parameters' device at every replay, but keeps the value of a float.
        normalize: ``"none"``, ``"tensor"`` or ``"global"``: which mean the significance is divided by.

    Returns:
        A 0-d tensor on the parameters' device: float64 if any parameter is, else float32. Element work is done in the
        parameter's dtype, but at least in float32; the sum is in float64 and in a fixed order. It is differentiable any
        number of times in reverse mode with respect to everything that requires a gradient, and under ``torch.func`` in
        forward mode too.

    Raises:
        ValueError: If the lists or mappings do not belong together. The message names the first position that differs.
    """
    theta, anchor, weight = _align(params, anchors, significance)
    if not isinstance(strength, Tensor):
        strength = torch.full((), strength, dtype=torch.float64)
    # checked here, because a kernel can only raise RuntimeError
    _operators.check_lists(theta, anchor, weight, strength)
    if normalize != "none":
        weight = _normalized(weight, normalize)
    result: Tensor = torch.ops.srft.significance_penalty(theta, anchor, weight, strength)
    return result


def _align(params: Tensors, anchors: Tensors, significance: Tensors) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    mappings = [isinstance(given, Mapping) for given in (params, anchors, significance)]
    if not any(mappings):
        return list(params), list(anchors), list(significance)  # type: ignore[arg-type]
    if not (isinstance(params, Mapping) and isinstance(anchors, Mapping) and isinstance(significance, Mapping)):
        raise ValueError(
            "significance_penalty needs three lists of tensors or three mappings by name, not some of each"
        )
    for what, given in (("parameter", params), ("anchor", anchors)):
        lacking = [name for name in significance if name not in given]
        if lacking:
            raise ValueError(
                f"significance_penalty: {len(lacking)} significances have no {what} of their name, "
                f"such as {lacking[0]!r}; rename the map or drop them from it"
            )
    names = list(significance)
    return [params[n] for n in names], [anchors[n] for n in names], [significance[n] for n in names]


def _normalized(weights: list[Tensor], how: str) -> list[Tensor]:
    if how == "tensor":
        return [_divided(w, w.sum(dtype=torch.float64) / max(w.numel(), 1)) for w in weights]
    if how != "global":
        raise ValueError(f'normalize must be "none", "tensor" or "global", got {how!r}')
    if not weights:
        return weights
    elements = max(sum(w.numel() for w in weights), 1)
    total = torch.stack([w.sum(dtype=torch.float64) for w in weights]).sum()
    return [_divided(w, total / elements) for w in weights]


def _divided(weight: Tensor, mean: Tensor) -> Tensor:
    # The inner `where` keeps 1/0 out of the backward pass, which would turn the zero gradient into NaN.
    safe = torch.where(mean > 0, mean, torch.ones_like(mean))
    wide = element_dtype(weight)
    return torch.where(mean > 0, weight.to(wide) / safe.to(wide), torch.zeros_like(weight, dtype=wide))
