"""Computes z ⊙ (∇²L z) for numbered probes z ∈ {-1, +1}, by double backward and by differences of gradients.

Both ways are context managers around one batch. They evaluate its loss and yield a function. It takes a draw's number
and returns the list of z ⊙ Hz, with one tensor per parameter in the accumulation dtype, or ``None`` if no gradient
reaches the parameter. The probe is that of :mod:`srft_kernels.ops.probe`, so the same seed and draw give the same probe
in both ways, on every device and in every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from srft_kernels.ops.probe import fill_probes_, fold_probes_, perturb_
from srft_kernels.ops.tensors import element_dtype
from srft_kernels.sharded import like, local
from srft_kernels.significance.preserve import Buffers, Generators

DrawProducts: TypeAlias = Callable[[int], list[Tensor | None]]
Difference = Literal["forward", "central"]


@dataclass(frozen=True)
class Probed:
    """The parameters that a probe covers, and the numbers that key each one's part of it."""

    model: nn.Module
    parameters: Sequence[Tensor]
    numbers: Sequence[int]
    seed: int

    @property
    def elements(self) -> int:
        return sum(p.numel() for p in self.parameters)


# ---------------------------------------------------------------- double backward


@contextmanager
def second_derivatives(probed: Probed, loss: Callable[[], Tensor], scale: float, draws: int) -> Iterator[DrawProducts]:
    """Take products of the Hessian by double backward, exact up to rounding.

    The graph of the gradient is kept until the last of the ``draws``. Its memory is about two to three times that of a
    training step, and a draw costs about two further backward passes.

    The fused kernels of ``scaled_dot_product_attention`` have no second derivative. The block therefore runs with the
    one kernel that has, and restores the choice of kernels afterward.
    """
    parameters = probed.parameters
    with sdpa_kernel(SDPBackend.MATH):
        value = loss()
        # The scale requires a gradient, and so every incoming gradient does. Otherwise a function that is marked as
        # differentiable once would leave no trace in the graph and count as linear.
        watched = torch.full_like(value, scale, requires_grad=True)
        with _explained():
            found = torch.autograd.grad(value * watched, parameters, create_graph=True, allow_unused=True)
        gradients = [None if g is None else _dense(g) for g in found]
        refuse_once_differentiable(gradients)
        left = draws

        def product(draw: int) -> list[Tensor | None]:
            nonlocal left
            left -= 1
            with _explained():
                rows = vector_products(gradients, parameters, probed.numbers, probed.seed, draw, retain=left > 0)
            out: list[Tensor | None] = []
            for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
                if g is None:
                    out.append(None)
                    continue
                wide = torch.zeros_like(p, dtype=element_dtype(p), requires_grad=False)
                row, signs = rows.get(k, (None, p))
                if row is not None:
                    wide.copy_(_dense(row.detach())).mul_(signs).div_(scale)
                out.append(wide)
            return out

        yield product


def vector_products(
    gradients: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    numbers: Sequence[int],
    seed: int,
    draw: int,
    *,
    retain: bool,
) -> dict[int, tuple[Tensor | None, Tensor]]:
    """Return H z by differentiating gradients along the probe z of a draw.

    Args:
        gradients: Gradients of the loss, with a graph. One that is None or has no graph stands for a row of zeros in H.
        parameters: What the loss was differentiated by.
        numbers: The number that keys each parameter's part of the probe.
        seed: The probe's seed.
        draw: The probe's number.
        retain: Whether the graph is needed again.

    Returns:
        By position, for each parameter whose gradient has a graph: its part of H z, or None if nothing reaches it, and
        its part of z.
    """
    curved = [k for k, g in enumerate(gradients) if g is not None and g.requires_grad]
    if not curved:
        return {}
    signs = [torch.empty_like(parameters[k], requires_grad=False) for k in curved]
    fill_probes_(signs, seed, draw, [numbers[k] for k in curved])
    outputs = [g for g in gradients if g is not None and g.requires_grad]
    rows: Sequence[Tensor | None] = torch.autograd.grad(
        outputs,
        [parameters[k] for k in curved],
        [z.to(g.dtype) for z, g in zip(signs, outputs, strict=True)],
        retain_graph=retain,
        allow_unused=True,
    )
    return {k: (row, z) for k, row, z in zip(curved, rows, signs, strict=True)}


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "derivative for" in str(error) or "is not implemented" in str(error):
            raise RuntimeError(_ONCE.format(error)) from error
        raise


_ONCE = (
    "the model has an operation without a second derivative ({}); "
    "use method='finite_difference', which needs first derivatives only"
)


def refuse_once_differentiable(gradients: Sequence[Tensor | None]) -> None:
    """Refuse functions that are differentiable once.

    The gradient of such a function has a leaf of its own, so a second pass would not reach it and would return zeros.
    """
    if any(node.name() == "torch::autograd::Error" for node in _graph(gradients)):
        raise RuntimeError(_ONCE.format("an autograd.Function that is marked @once_differentiable"))


def _graph(tensors: Sequence[Tensor | None]) -> Iterator[Any]:
    """Yield the graph nodes by which the tensors were computed."""
    seen: set[Any] = set()
    ahead: list[Any] = [t.grad_fn for t in tensors if t is not None]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        ahead += [following for following, _ in node.next_functions]


# ---------------------------------------------------------------- differences of gradients


@contextmanager
def gradient_differences(
    probed: Probed, loss: Callable[[], Tensor], scale: float, step: float, difference: Difference
) -> Iterator[DrawProducts]:
    """Take products of the Hessian from differences of gradients, with first derivatives only.

    Forward differences are ``(g(θ + hz) - g(θ)) / h``, with the gradient at θ taken once a batch. Central ones are
    ``(g(θ + hz) - g(θ - hz)) / 2h``.

    The parameters are moved in place, so that whatever shares or wraps them sees the move: tied weights, autocast,
    gradient checkpointing, ``DistributedDataParallel`` and FSDP2, whose reductions a ``backward()`` starts as in a
    training step. Each process moves its own shards of sharded parameters. Parameters come back from a copy, bit for
    bit, also after an exception, because arithmetic alone would not restore them. Beyond a training step this holds the
    copy and one more gradient, each of the size of the parameters.

    Every evaluation starts from the same state of the random number generators and of the buffers. Dropout and
    drop-path therefore draw alike, and what BatchNorm or a power iteration writes in one evaluation does not affect the
    next.
    """
    parameters = probed.parameters
    shards = [local(p) for p in parameters]
    generators, buffers = Generators(), Buffers(probed.model)
    evaluations = 0

    def evaluate() -> list[Tensor | None]:
        nonlocal evaluations
        if evaluations:
            generators.restore()
            buffers.restore()
        evaluations += 1
        return _gradients(probed, loss(), scale)

    base: list[Tensor | None] | None = None
    with perturbed_gradients(parameters, probed.numbers, probed.seed, evaluate) as gradients_at:

        def product(draw: int) -> list[Tensor | None]:
            nonlocal base
            if difference == "forward" and base is None:
                base = gradients_at(0.0, draw)  # the parameters have not been moved yet
            plus = gradients_at(step, draw)
            minus = base if base is not None else gradients_at(-step, draw)
            span = (step if difference == "forward" else 2.0 * step) * scale
            reached = [k for k, (a, b) in enumerate(zip(plus, minus, strict=True)) if a is not None or b is not None]
            out: list[Tensor | None] = [None] * len(parameters)
            folded = [torch.zeros_like(shards[k], dtype=element_dtype(shards[k]), requires_grad=False) for k in reached]
            fold_probes_(
                folded,
                [laid_out(plus[k], shards[k]) for k in reached],
                [laid_out(minus[k], shards[k]) for k in reached],
                1.0,
                1.0 / span,
                probed.seed,
                draw,
                [probed.numbers[k] for k in reached],
            )
            for k, tensor in zip(reached, folded, strict=True):
                out[k] = like(parameters[k], tensor)
            return out

        yield product


@contextmanager
def perturbed_gradients(
    parameters: Sequence[Tensor], numbers: Sequence[int], seed: int, evaluate: Callable[[], list[Tensor | None]]
) -> Iterator[Callable[[float, int], list[Tensor | None]]]:
    """Evaluate gradients beside the weights, at θ + hz, with z the probe of a draw.

    Parameters are moved in place and come back from a copy, bit for bit, at the block's end.

    Args:
        parameters: What is moved, or its local shard if it is distributed.
        numbers: The number that keys each parameter's part of a probe.
        seed: The probes' seed.
        evaluate: Takes the gradients at the present parameters.

    Yields:
        A function of h and a draw's number, which returns what ``evaluate`` returns there. With h = 0 the parameters
        stay where the call before has put them.
    """
    shards = [local(p) for p in parameters]
    originals = [p.detach().clone(memory_format=torch.preserve_format) for p in shards]

    def gradients_at(offset: float, draw: int) -> list[Tensor | None]:
        if offset:
            perturb_(shards, originals, offset, seed, draw, numbers)
        # If autocast is on around the whole pass, it caches the casts of weights and would not see the weights move.
        torch.clear_autocast_cache()
        return evaluate()

    try:
        yield gradients_at
    finally:
        with torch.no_grad():
            torch._foreach_copy_(shards, originals)
        torch.clear_autocast_cache()


def _gradients(probed: Probed, loss: Tensor, scale: float) -> list[Tensor | None]:
    # Only backward() starts DistributedDataParallel's reduction and may go through reentrant checkpoints; autograd.grad
    # does not. What else it leaves in .grad is dropped, because the pass has put the model's own gradients aside.
    for p in probed.model.parameters():
        p.grad = None
    (loss * scale).backward()
    found = [None if p.grad is None else local(kept_gradient(p.grad.detach())) for p in probed.parameters]
    for p in probed.model.parameters():
        p.grad = None
    return found


def kept_gradient(grad: Tensor) -> Tensor:
    """Return a gradient that the next evaluation does not overwrite.

    That is the gradient itself, unless it is a view of memory that is written again, such as the buckets of
    ``DistributedDataParallel``.
    """
    own = local(grad)
    alone = own.layout != torch.strided or own.untyped_storage().nbytes() <= own.numel() * own.element_size()
    return grad if alone else grad.clone()


def laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a gradient dense and in the parameter's memory order, in which a probe counts elements; zeros for None."""
    if gradient is None:
        return torch.zeros_like(parameter, requires_grad=False)
    gradient = _dense(gradient)
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype, requires_grad=False).copy_(gradient)


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


# ---------------------------------------------------------------- the step

# By dtype and difference, the largest h and the largest ‖h z‖ = h √P for P elements. They come from sweeps of the error
# against double backward in float64, on transformers with GELU of 826, 18 thousand, 0.4, 5.5 and 86 million parameters
# (float64 and float16 on the first three). The best steps lie within a factor of three of these. A gradient that is
# wrong by ε makes a difference wrong by ε / h, and the curvature's own change makes it wrong by a multiple of h
# (forward) or h² (central).
_STEPS: dict[tuple[torch.dtype, Difference], tuple[float, float]] = {
    (torch.float64, "forward"): (1e-8, 1e-4),
    (torch.float64, "central"): (1e-6, 1e-2),
    (torch.float32, "forward"): (4e-5, 0.3),
    (torch.float32, "central"): (3e-4, 0.9),
    (torch.bfloat16, "forward"): (4e-3, 9.0),
    (torch.bfloat16, "central"): (4e-3, 9.0),
    (torch.float16, "forward"): (2e-3, 9.0),
    (torch.float16, "central"): (2e-3, 9.0),
}


def default_step(arithmetic: torch.dtype, elements: int, difference: Difference) -> float:
    """Return the default step h, for smooth networks. It shrinks with ‖z‖ = √P if that is large."""
    largest, length = _STEPS[arithmetic, difference]
    return min(largest, length / math.sqrt(max(elements, 1)))


def narrowest_dtype(loss: Tensor, parameters: Sequence[Tensor]) -> torch.dtype:
    """Return the least precise floating dtype that the gradient of ``loss`` passes through.

    Autocast casts inside the loss function, where nothing outside can ask for it, but its dtypes stay in the graph.
    TF32 counts as float16, which has as many digits.
    """
    found = {p.dtype for p in parameters}
    for node in _graph([loss]):
        found.update(m.dtype for m in getattr(node, "_input_metadata", ()))
    digits = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    narrowest = next((dtype for dtype in digits if dtype in found), torch.float32)
    if narrowest == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        on_device = any(p.is_cuda for p in parameters)
        return torch.float16 if on_device else narrowest
    return narrowest
