"""The significance penalty as one operator over a list of tensors.

``R = 1/2 · strength · Σ_k Σ_i P_ki (θ_ki - a_ki)²`` (elastic weight consolidation, arXiv 1612.00796, equation 3).

This file has the schemas, the checks, the fakes and the derivatives. :mod:`.backends` registers the kernels.

Every kernel is bound to this arithmetic: element work is in float64 for float64 parameters and in float32 for all
others, whatever the storage; sums are in float64 and in a fixed order; the value is float64 if any parameter is, else
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.tensors import element_dtype

FORWARD = "srft::significance_penalty"
BACKWARD = "srft::significance_penalty_backward"
FORWARD_SCHEMA = "(Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor strength) -> Tensor"
BACKWARD_SCHEMA = "(Tensor grad, Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor strength) -> Tensor[]"


def value_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of the penalty's value."""
    return torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32


def check_lists(
    params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
) -> None:
    """Refuse lists that do not belong together, before anything is computed.

    Raises:
        ValueError: If lengths, shapes, dtypes or devices differ. The message names the first position that differs.
    """
    if not len(params) == len(anchors) == len(significance):
        raise ValueError(
            "significance_penalty needs one anchor and one significance per parameter, got "
            f"{len(params)} parameters, {len(anchors)} anchors and {len(significance)} significances"
        )
    if strength.dim() != 0 or not strength.is_floating_point():
        raise ValueError(
            "significance_penalty needs a strength that is a float or a 0-d floating tensor, got shape "
            f"{tuple(strength.shape)} of {strength.dtype}"
        )
    for k, (p, a, s) in enumerate(zip(params, anchors, significance, strict=True)):
        if p.shape != a.shape or p.shape != s.shape:
            raise ValueError(
                f"significance_penalty: shapes differ at position {k}: parameter {tuple(p.shape)}, "
                f"anchor {tuple(a.shape)}, significance {tuple(s.shape)}; they must be equal"
            )
        if not (p.is_floating_point() and a.is_floating_point() and s.is_floating_point()):
            raise ValueError(
                f"significance_penalty: tensors at position {k} must be real floating, got "
                f"parameter {p.dtype}, anchor {a.dtype}, significance {s.dtype}"
            )
        if p.device != params[0].device or a.device != p.device or s.device != p.device:
            raise ValueError(
                f"significance_penalty: tensors at position {k} must all be on {params[0].device}, got "
                f"parameter on {p.device}, anchor on {a.device}, significance on {s.device}"
            )


def _fake_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
) -> Tensor:
    check_lists(params, anchors, significance, strength)
    device = params[0].device if params else strength.device
    return torch.empty((), dtype=value_dtype(params), device=device)


def _fake_penalty_backward(
    grad: Tensor,
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    significance: Sequence[Tensor],
    strength: Tensor,
) -> list[Tensor]:
    check_lists(params, anchors, significance, strength)
    return [torch.empty_like(p, memory_format=torch.contiguous_format) for p in params]


# ---- first derivative --------------------------------------------------------------------------------------


def _split(ctx: Any, offset: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    saved = list(ctx.saved_tensors)[offset:]
    n = ctx.count
    return saved[:n], saved[n : 2 * n], saved[2 * n :]


def _setup_penalty(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    params, anchors, significance, strength = inputs
    ctx.count = len(params)
    ctx.save_for_backward(strength, *params, *anchors, *significance)


def _pick(tensors: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    return [tensors[k] for k in places]


def _differentiate_penalty(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    strength = ctx.saved_tensors[0]
    params, anchors, significance = _split(ctx, 1)
    needs_p, needs_a, needs_s, needs_strength = ctx.needs_input_grad
    n = ctx.count
    grad_params: list[Tensor | None] = [None] * n
    grad_anchors: list[Tensor | None] = [None] * n
    grad_significance: list[Tensor | None] = [None] * n
    grad_strength = None

    pulled = [k for k in range(n) if needs_p[k] or needs_a[k]]
    if pulled:
        pulls = torch.ops.srft.significance_penalty_backward(
            grad, _pick(params, pulled), _pick(anchors, pulled), _pick(significance, pulled), strength
        )
        for k, pull in zip(pulled, pulls, strict=True):
            if needs_p[k]:
                grad_params[k] = pull
            if needs_a[k]:
                grad_anchors[k] = -pull.to(anchors[k].dtype)
    for k in range(n):
        if needs_s[k]:
            dtype = element_dtype(params[k])
            distance = params[k].to(dtype) - anchors[k].to(dtype)
            factor = (0.5 * grad.to(torch.float64) * strength.to(torch.float64)).to(dtype)
            grad_significance[k] = (factor * distance * distance).to(significance[k].dtype)
    if needs_strength:
        unit = torch.ones_like(strength, dtype=torch.float64)
        slope = torch.ops.srft.significance_penalty(params, anchors, significance, unit)
        grad_strength = (grad * slope).to(device=strength.device, dtype=strength.dtype)
    return grad_params, grad_anchors, grad_significance, grad_strength


# ---- second derivative: of pull_k = grad · strength · P_k (θ_k - a_k), in plain torch, so that every higher


def _setup_penalty_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, params, anchors, significance, strength = inputs
    ctx.count = len(params)
    ctx.save_for_backward(grad, strength, *params, *anchors, *significance)


def _differentiate_penalty_backward(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    grad, strength = ctx.saved_tensors[:2]
    params, anchors, significance = _split(ctx, 2)
    needs_grad, needs_p, needs_a, needs_s, needs_strength = ctx.needs_input_grad
    n = ctx.count
    grad_params: list[Tensor | None] = [None] * n
    grad_anchors: list[Tensor | None] = [None] * n
    grad_significance: list[Tensor | None] = [None] * n
    inner = torch.zeros((), dtype=torch.float64, device=grad.device)
    factor = grad.to(torch.float64) * strength.to(torch.float64)

    for k, cotangent in enumerate(cotangents):
        if cotangent is None:
            continue
        p, a, s = params[k], anchors[k], significance[k]
        dtype = element_dtype(p)
        v = cotangent.to(dtype)
        if needs_p[k] or needs_a[k]:
            hessian_v = factor.to(dtype) * s.to(dtype) * v
            if needs_p[k]:
                grad_params[k] = hessian_v.to(p.dtype)
            if needs_a[k]:
                grad_anchors[k] = -hessian_v.to(a.dtype)
        if needs_s[k] or needs_grad or needs_strength:
            along = v * (p.to(dtype) - a.to(dtype))
            if needs_s[k]:
                grad_significance[k] = (factor.to(dtype) * along).to(s.dtype)
            inner = inner + (s.to(dtype) * along).sum(dtype=torch.float64)
    grad_grad = (strength.to(torch.float64) * inner).to(grad.dtype) if needs_grad else None
    grad_strength = None
    if needs_strength:
        grad_strength = (grad.to(torch.float64) * inner).to(device=strength.device, dtype=strength.dtype)
    return grad_grad, grad_params, grad_anchors, grad_significance, grad_strength


# Under torch.func (grad, vmap, jvp and what is built of them) the operators dissolve into plain torch, whose operations
# the transforms know; torch refuses an operator's own autograd formula there. :mod:`.backends` registers that.
contract.LIBRARY.define(FORWARD.removeprefix("srft::") + FORWARD_SCHEMA)
contract.LIBRARY.define(BACKWARD.removeprefix("srft::") + BACKWARD_SCHEMA)
torch.library.register_fake(FORWARD, _fake_penalty, lib=contract.LIBRARY)
torch.library.register_fake(BACKWARD, _fake_penalty_backward, lib=contract.LIBRARY)
torch.library.register_autograd(FORWARD, _differentiate_penalty, setup_context=_setup_penalty, lib=contract.LIBRARY)
torch.library.register_autograd(
    BACKWARD, _differentiate_penalty_backward, setup_context=_setup_penalty_backward, lib=contract.LIBRARY
)
