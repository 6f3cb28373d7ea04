"""The compiled penalty kernels against the plain-torch specification, and the same bits wherever they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srft_kernels.ops.native import library
from srft_kernels.ops.reference.penalty import penalty_backward_reference, penalty_reference
from tests.srft_kernels.ops.digests import digests
from tests.srft_kernels.ops.penalty_cases import Lists, draw

pytestmark = pytest.mark.skipif(not library.available, reason=f"the native library is not here: {library.reason}")

FORWARD = torch.ops.srft.significance_penalty
BACKWARD = torch.ops.srft.significance_penalty_backward
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def assert_is_the_reference(tensors: Lists, strength: Tensor, grad: Tensor) -> None:
    """Compare with the reference: the gradient to the bit, and the value up to the order of its float64 sum."""
    value, truth = FORWARD(*tensors, strength), penalty_reference(*tensors, strength)
    assert (value.dtype, value.shape) == (truth.dtype, truth.shape)
    # Non-negative terms, so each side is wrong by at most one float64 rounding a level of its additions: here 32 in a
    # lane, 16 lanes, 64 blocks, then chunks and tensors. On top of it the rounding of the answer.
    levels = 2 * (32 + 16 + 64 + 16)
    rtol = levels * torch.finfo(torch.float64).eps + torch.finfo(value.dtype).eps
    torch.testing.assert_close(value, truth, rtol=rtol, atol=0.0)
    pulls = BACKWARD(grad, *tensors, strength)
    expected = penalty_backward_reference(grad, *tensors, strength)
    for pull, wanted, given_ in zip(pulls, expected, tensors[0], strict=True):
        assert pull.is_contiguous()
        assert (pull.dtype, pull.shape) == (given_.dtype, given_.shape)
        assert torch.equal(pull, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("anchor_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("significance_dtype", DTYPES, ids=str)
def test_every_combination_of_dtypes_is_the_reference(
    dtype: torch.dtype, anchor_dtype: torch.dtype, significance_dtype: torch.dtype
) -> None:
    tensors = draw((dtype, anchor_dtype, significance_dtype))
    real = torch.float64 if dtype == torch.float64 else torch.float32
    strength, grad = torch.tensor(2.3, dtype=torch.float64), torch.tensor(-0.7, dtype=real)
    assert_is_the_reference(tensors, strength, grad)


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), max_size=5).map(tuple),
    dtypes=st.tuples(*[st.sampled_from(DTYPES)] * 3),
    strength_dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_list_is_the_reference(shapes: Any, dtypes: Any, strength_dtype: torch.dtype, seed: int) -> None:
    strength = torch.tensor(1.7, dtype=strength_dtype)
    assert_is_the_reference(draw(dtypes, shapes, seed), strength, torch.tensor(0.3))


def test_lists_of_mixed_dtypes_are_the_reference() -> None:
    columns = [
        draw((d, e, f), ((5, 7),), seed)
        for seed, (d, e, f) in enumerate(zip(DTYPES, DTYPES[1:] + DTYPES[:1], DTYPES[::-1], strict=True))
    ]
    tensors: Lists = tuple([c[k][0] for c in columns] for k in range(3))  # type: ignore[assignment]
    assert_is_the_reference(tensors, torch.tensor(0.5), torch.tensor(2.0, dtype=torch.float64))


def test_a_dtype_without_a_loop_of_its_own_is_widened() -> None:
    tensors = draw((torch.float8_e4m3fn, torch.float8_e5m2, torch.float32), ((40, 30),))
    strength, grad = torch.tensor(2.0), torch.tensor(0.5)
    torch.testing.assert_close(FORWARD(*tensors, strength), penalty_reference(*tensors, strength), rtol=3e-7, atol=0.0)
    (pull,), (wanted,) = BACKWARD(grad, *tensors, strength), penalty_backward_reference(grad, *tensors, strength)
    assert pull.dtype == torch.float8_e4m3fn
    assert torch.equal(pull.float(), wanted.float())


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_strides_do_not_matter(which: tuple[int, ...]) -> None:
    dense = draw((torch.float32,) * 3, ((30, 50), (4, 3, 5, 6)))
    strided = tuple(
        [t.transpose(0, -1).contiguous().transpose(0, -1) if k in which else t for t in group]
        for k, group in enumerate(dense)
    )
    gaps = tuple(
        [torch.stack([t, -t], dim=-1)[..., 0] if k in which else t for t in group] for k, group in enumerate(dense)
    )
    strength, grad = torch.tensor(1.3), torch.tensor(0.9)
    for tensors in (strided, gaps):
        assert torch.equal(FORWARD(*tensors, strength), FORWARD(*dense, strength))
        for pull, wanted in zip(BACKWARD(grad, *tensors, strength), BACKWARD(grad, *dense, strength), strict=True):
            assert pull.is_contiguous()
            assert torch.equal(pull, wanted)


def test_an_expanded_and_an_offset_view_are_read_where_they_are() -> None:
    (whole,), (anchor,), _ = draw((torch.float32,) * 3, ((101,),))
    row = torch.tensor(2.0).expand(100)
    tensors = ([whole[1:]], [anchor[1:]], [row])
    assert_is_the_reference(tensors, torch.tensor(1.0), torch.tensor(1.0))


def test_gradients_are_fresh_tensors_that_share_nothing() -> None:
    params, anchors, significance = draw((torch.float32,) * 3, ((4,), (4,)))
    kept = [t.clone() for t in (*params, *anchors, *significance)]
    pulls = BACKWARD(torch.tensor(1.0), params, anchors, significance, torch.tensor(1.0))
    for pull in pulls:
        pull.fill_(9.0)
    for before, now in zip(kept, (*params, *anchors, *significance), strict=True):
        assert torch.equal(before, now)


def test_what_is_not_finite_is_reported_as_it_is() -> None:
    tensors = draw((torch.float32,) * 3, ((40,),))
    tensors[0][0][3] = float("nan")
    assert FORWARD(*tensors, torch.tensor(1.0)).isnan()
    tensors[0][0][3] = float("inf")
    assert FORWARD(*tensors, torch.tensor(1.0)).isinf()
    (pull,) = BACKWARD(torch.tensor(1.0), *tensors, torch.tensor(1.0))
    assert pull.isinf().nonzero().flatten().tolist() == [3]


def test_lists_that_do_not_fit_are_refused_before_anything_is_read() -> None:
    params, anchors, significance = draw((torch.float32,) * 3, ((4,), (5,)))
    one = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="2 parameters, 1 anchors"):
        FORWARD(params, anchors[:1], significance, one)
    with pytest.raises(RuntimeError, match="position 1"):
        FORWARD(params, anchors, [significance[0], significance[0]], one)
    with pytest.raises(RuntimeError, match="strength must be 0-d"):
        FORWARD(params, anchors, significance, torch.ones(2))


DIGEST = """
import srft_kernels
from tests.srft_kernels.ops.penalty_cases import draw
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FORWARD, BACKWARD = torch.ops.srft.significance_penalty, torch.ops.srft.significance_penalty_backward
digest = hashlib.sha256()
for k, dtype in enumerate(DTYPES):
    tensors = draw((dtype, dtype, DTYPES[k % 2]), ((700, 301), (0,), (5,), (1000, 133)))
    value = FORWARD(*tensors, torch.tensor(1.9))
    for t in (value, *BACKWARD(value, *tensors, torch.tensor(0.3))):
        digest.update(t.view(-1).view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def test_bits_depend_neither_on_the_instruction_set_nor_on_threads() -> None:
    answers = digests(DIGEST, threads=(1, 2, 3))
    assert len(answers) >= 3
    assert len(set(answers.values())) == 1, answers
