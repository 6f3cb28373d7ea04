"""The penalty operator agrees with float64 by hand and by autograd, derivatives too, and keeps torch's contracts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from srft_kernels.functional import significance_penalty
from srft_kernels.significance import SignificanceMap

OPERATOR = torch.ops.srft.significance_penalty
BACKWARD = torch.ops.srft.significance_penalty_backward
SHAPES = [(3, 2), (), (0,), (4,), (2, 0, 3)]
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


def lists(
    dtype: torch.dtype = torch.float64,
    shapes: list[Any] = SHAPES,
    *,
    anchor_dtype: torch.dtype | None = None,
    significance_dtype: torch.dtype | None = None,
    requires_grad: bool = False,
    seed: int = 0,
) -> Lists:
    g = torch.Generator().manual_seed(seed)

    def make(kind: torch.dtype, *, positive: bool) -> list[Tensor]:
        drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
        return [(d.square() if positive else d).to(kind).requires_grad_(requires_grad) for d in drawn]

    return (
        make(dtype, positive=False),
        make(anchor_dtype or dtype, positive=False),
        make(significance_dtype or dtype, positive=True),
    )


def by_hand(params: list[Tensor], anchors: list[Tensor], significance: list[Tensor], strength: float) -> float:
    """Return the formula in NumPy's float64, exactly rounded sum included."""
    terms = [
        p.detach().double().numpy().ravel() - a.detach().double().numpy().ravel()
        for p, a in zip(params, anchors, strict=True)
    ]
    weights = [s.detach().double().numpy().ravel() for s in significance]
    return 0.5 * strength * float(sum(np.dot(w, t * t) for w, t in zip(weights, terms, strict=True)))


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), max_size=6),
    strength=st.floats(0.0, 1e6),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_value_is_the_formula_for_any_list(shapes: list[Any], strength: float, seed: int) -> None:
    tensors = lists(shapes=shapes, seed=seed)
    value = significance_penalty(*tensors, strength)
    assert value.shape == ()
    # An empty list has no dtype to answer in but the default one.
    assert value.dtype == (torch.float64 if shapes else torch.float32)
    assert value.item() == pytest.approx(by_hand(*tensors, strength), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("significance_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wide_anchor", [False, True])
def test_narrow_storage_costs_no_accuracy(
    dtype: torch.dtype, significance_dtype: torch.dtype, wide_anchor: bool
) -> None:
    anchor_dtype = torch.float32 if wide_anchor and dtype != torch.float64 else dtype
    tensors = lists(dtype, [(100, 70), (333,)], anchor_dtype=anchor_dtype, significance_dtype=significance_dtype)
    for p in tensors[0]:
        p.requires_grad_()
    value = significance_penalty(*tensors, 3.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert value.dtype == wide
    # Element work has three fp32 roundings of non-negative terms (P, square, product), the result one more.
    assert value.item() == pytest.approx(by_hand(*tensors, 3.0), rel=6 * EPSILON[wide])
    value.backward()
    for p, a, s in zip(*tensors, strict=True):
        truth = 3.0 * s.double() * (p.detach().double() - a.double())
        assert p.grad is not None
        assert p.grad.dtype == dtype
        # Half a unit in the last place of the storage, and the fp32 work before it, relative to each
        # element; where the storage is subnormal (fp16), its smallest step instead.
        allowed = truth.abs() * (0.5 * EPSILON[dtype] + 4 * EPSILON[wide])
        allowed += torch.finfo(dtype).smallest_normal * EPSILON[dtype]
        assert ((p.grad.double() - truth).abs() <= allowed).all()


def test_non_contiguous_tensors_mean_the_same() -> None:
    params, anchors, significance = lists(shapes=[(6, 8)])
    tilted = [t[0].t().contiguous().t() for t in (params, anchors, significance)]
    strided = [torch.stack([t[0], -t[0]], dim=-1)[..., 0] for t in (params, anchors, significance)]
    expected = significance_penalty(params, anchors, significance, 2.0)
    leaf = strided[0].requires_grad_()
    assert not leaf.is_contiguous()
    mixed = significance_penalty([leaf], [tilted[1]], [strided[2]], 2.0)
    torch.testing.assert_close(mixed, expected, rtol=1e-14, atol=0.0)
    (gradient,) = torch.autograd.grad(mixed, leaf)
    torch.testing.assert_close(gradient, 2.0 * significance[0] * (params[0] - anchors[0]), rtol=1e-14, atol=0.0)


def _flat(tensors: Lists, strength: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    n = len(tensors[0])

    def call(*flat: Tensor) -> Tensor:
        return significance_penalty(list(flat[:n]), list(flat[n : 2 * n]), list(flat[2 * n : -1]), flat[-1])

    return call, (*tensors[0], *tensors[1], *tensors[2], strength)


def test_first_and_second_derivatives_of_every_argument() -> None:
    strength = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    call, inputs = _flat(lists(requires_grad=True), strength)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("argument", range(4))
def test_each_argument_alone_may_require_a_gradient(argument: int) -> None:
    tensors = lists(shapes=[(3,), (2, 2)])
    strength = torch.tensor(0.7, dtype=torch.float64)
    wanted = [*tensors, [strength]][argument]
    for t in wanted:
        t.requires_grad_()
    call, inputs = _flat(tensors, strength)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_a_tensor_that_needs_no_gradient_gets_none_and_no_work() -> None:
    params, anchors, significance = lists(shapes=[(3,), (4,), (5,)])
    params[1].requires_grad_()
    significance_penalty(params, anchors, significance, 1.0).backward()
    assert params[0].grad is None
    assert params[2].grad is None
    torch.testing.assert_close(params[1].grad, significance[1] * (params[1] - anchors[1]).detach())


def test_third_derivative_exists() -> None:
    p, a, s = (t[0].requires_grad_() for t in lists(shapes=[(4,)]))
    (first,) = torch.autograd.grad(significance_penalty([p], [a], [s], 2.0), p, create_graph=True)
    (second,) = torch.autograd.grad((first * first).sum(), p, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), s)
    # first = 2 P d; second = 2 · first · 2 P = 8 P² d; third = 16 P d
    torch.testing.assert_close(third, 16.0 * s.detach() * (p - a).detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(dtype: torch.dtype, requires_grad: bool) -> None:
    tensors = lists(dtype, requires_grad=requires_grad)
    strength = torch.tensor(1.3, dtype=torch.float64, requires_grad=requires_grad)
    torch.library.opcheck(OPERATOR.default, (*tensors, strength))
    grad = torch.tensor(0.4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    torch.library.opcheck(BACKWARD.default, (grad.requires_grad_(requires_grad), *tensors, strength))


@pytest.mark.parametrize(
    ("backend", "normalize"),
    [("inductor", "none"), ("aot_eager", "none"), ("aot_eager", "tensor"), ("aot_eager", "global")],
)
def test_compiles_into_one_graph(backend: str, normalize: Any) -> None:
    torch._dynamo.reset()
    params, anchors, significance = lists(torch.float32, shapes=[(3, 2), (), (5,)])

    def loss(params: list[Tensor], strength: float) -> Tensor:
        return significance_penalty(params, anchors, significance, strength, normalize=normalize)

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for strength in (0.5, 2.0):
        here = [p.clone().requires_grad_() for p in params]
        there = [p.clone().requires_grad_() for p in params]
        expected, got = loss(here, strength), compiled(there, strength)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, there), torch.autograd.grad(expected, here))


def test_fake_tensors_have_the_real_ones_metadata() -> None:
    tensors = lists(torch.bfloat16, [*SHAPES, (4, 6)])
    for group in tensors:
        group[-1] = group[-1].t()
    real = significance_penalty(*tensors, 1.0)
    pulls = BACKWARD(real, *tensors, torch.tensor(1.0))
    with FakeTensorMode() as mode:
        fakes = [[mode.from_tensor(t) for t in group] for group in tensors]
        fake = significance_penalty(*fakes, 1.0)  # type: ignore[arg-type]
        fake_pulls = BACKWARD(fake, *fakes, torch.tensor(1.0))
    for r, f in zip([real, *pulls], [fake, *fake_pulls], strict=True):
        assert (r.shape, r.dtype, r.stride(), r.device) == (f.shape, f.dtype, f.stride(), f.device)


def test_function_transforms_agree_with_autograd() -> None:
    params, anchors, significance = lists(shapes=[(3,), (2, 2)])

    def call(params: list[Tensor]) -> Tensor:
        return significance_penalty(params, anchors, significance, 1.5)

    pull = [1.5 * s * (p - a) for p, a, s in zip(params, anchors, significance, strict=True)]
    torch.testing.assert_close(torch.func.grad(call)(params), pull)
    many = [torch.stack([p, 2 * p, -p]) for p in params]
    singly = torch.stack([call([p * f for p in params]) for f in (1, 2, -1)])
    torch.testing.assert_close(torch.func.vmap(call)(many), singly)
    per_sample = torch.func.vmap(torch.func.grad(call))(many)
    torch.testing.assert_close([g[0] for g in per_sample], pull)

    def first_only(p: Tensor) -> Tensor:
        return call([p, params[1]])

    expected = torch.diag(1.5 * significance[0])
    torch.testing.assert_close(torch.func.hessian(first_only)(params[0]), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(first_only))(params[0]), expected)


def test_a_native_kernel_for_the_device_is_preferred() -> None:
    """An implementation for the CPU takes over as soon as it is registered. The native library relies on this."""
    tensors = lists(shapes=[(3,)])
    before = significance_penalty(*tensors, 1.0)
    library: Any = torch.library.Library("srft", "IMPL")
    try:
        library.impl("significance_penalty", lambda p, a, s, k: torch.full((), 42.0, dtype=torch.float64), "CPU")
        assert significance_penalty(*tensors, 1.0).item() == 42.0
    finally:
        library._destroy()
    assert torch.equal(significance_penalty(*tensors, 1.0), before)


def test_normalization_divides_by_the_mean() -> None:
    params, anchors, significance = lists(shapes=[(3,), (2, 2), (5,), (0,)])
    significance[2].zero_()
    per_tensor = [s / s.mean() if s.any() else s for s in significance]
    together = torch.cat([s.ravel() for s in significance]).mean()
    for how, hat in (("tensor", per_tensor), ("global", [s / together for s in significance])):
        got = significance_penalty(params, anchors, significance, 2.0, normalize=how)
        assert got.item() == pytest.approx(by_hand(params, anchors, hat, 2.0), rel=1e-12)
        mapped = SignificanceMap({str(k): s for k, s in enumerate(significance)}).normalized(how)
        for k, h in enumerate(hat):
            torch.testing.assert_close(mapped[str(k)], h, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("how", ["tensor", "global"])
def test_normalization_is_differentiated_and_zero_stays_harmless(how: Any) -> None:
    params, anchors, significance = lists(shapes=[(3,), (4,)], requires_grad=True)

    def call(*significance: Tensor) -> Tensor:
        return significance_penalty(params, anchors, list(significance), 2.0, normalize=how)

    assert torch.autograd.gradcheck(call, tuple(significance))
    zeros = [torch.zeros_like(s, requires_grad=True) for s in significance]
    value = call(*zeros)
    assert value.item() == 0.0
    for gradient in torch.autograd.grad(value, [*params, *zeros]):
        assert not gradient.any()


def test_mappings_pair_by_name_and_skip_what_has_no_prior() -> None:
    params, anchors, significance = lists(shapes=[(3,), (2, 2), (4,)])
    named = dict(zip("abc", params, strict=True))
    originals = dict(zip("cab", [anchors[2], anchors[0], anchors[1]], strict=True))
    prior = SignificanceMap({"c": significance[2], "a": significance[0]})
    got = significance_penalty(named, originals, prior, 1.0)
    kept = [[group[0], group[2]] for group in (params, anchors, significance)]
    assert got.item() == pytest.approx(by_hand(*kept, 1.0), rel=1e-12)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'z'"):
        significance_penalty(named, originals, {"z": significance[0]}, 1.0)
    with pytest.raises(ValueError, match="not some of each"):
        significance_penalty(params, originals, prior, 1.0)


def test_strength_may_be_a_tensor_of_any_floating_dtype() -> None:
    tensors = lists(torch.float32, shapes=[(3,)])
    strength = torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True)
    value = significance_penalty(*tensors, strength)
    assert torch.equal(value, significance_penalty(*tensors, 0.5))
    value.backward()
    assert strength.grad is not None
    assert strength.grad.dtype == torch.bfloat16
    assert strength.grad.item() == pytest.approx(by_hand(*tensors, 1.0), rel=2.0**-8)


def test_lists_that_do_not_belong_together_are_refused() -> None:
    (p,), (a,), (s,) = lists(shapes=[(3,)])
    whole = torch.ones(3, dtype=torch.int64)
    for arguments, named in (
        (([p], [a, a], [s], 1.0), "2 anchors"),
        (([p], [a[:2]], [s], 1.0), r"position 0: parameter \(3,\), anchor \(2,\)"),
        # Broadcasting would hide a mistake.
        (([p], [a], [s[:1]], 1.0), r"significance \(1,\)"),
        (([p], [whole], [s], 1.0), "anchor torch.int64"),
        (([p], [a.to(torch.complex128)], [s], 1.0), "complex128"),
        (([p], [a], [s], torch.ones(2)), "strength"),
        (([p], [a], [s], torch.tensor(1)), "strength"),
        (([p], [a.to("meta")], [s], 1.0), "anchor on meta"),
    ):
        with pytest.raises(ValueError, match=named):
            significance_penalty(*arguments)
    with pytest.raises(ValueError, match="normalize"):
        significance_penalty([p], [a], [s], 1.0, normalize="mean")  # type: ignore[arg-type]
