"""Box algebra against scalar arithmetic in exact fractions, one pair at a time."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tracker import boxes as algebra

QUARTERS = st.integers(-40, 40).map(lambda n: n / 4)
SIZES = st.integers(0, 40).map(lambda n: n / 4)
XYWH = st.tuples(QUARTERS, QUARTERS, SIZES, SIZES)


def exact_overlaps(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[Fraction, Fraction]:
    """Return IoU and GIoU of two xywh boxes, by counting areas over a grid cut at every edge of either."""
    boxes = [tuple(Fraction(v) for v in box) for box in (a, b)]
    edges_x = sorted({edge for x, _, w, _ in boxes for edge in (x, x + w)})
    edges_y = sorted({edge for _, y, _, h in boxes for edge in (y, y + h)})
    both = either = hull = Fraction(0)
    for x0, x1 in pairwise(edges_x):
        for y0, y1 in pairwise(edges_y):
            inside = [x <= x0 and x1 <= x + w and y <= y0 and y1 <= y + h for x, y, w, h in boxes]
            area = (x1 - x0) * (y1 - y0)
            hull += area
            both += area * all(inside)
            either += area * any(inside)
    iou = both / either if either else Fraction(0)
    giou = iou - ((hull - either) / hull if hull else Fraction(0))
    return iou, giou


@given(XYWH, XYWH)
def test_overlaps_equal_counting_over_a_grid(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    iou, giou = exact_overlaps(a, b)
    for make in (np.array, lambda box: torch.tensor(box, dtype=torch.float64)):
        first, second = algebra.xywh_to_xyxy(make(a)), algebra.xywh_to_xyxy(make(b))
        assert float(algebra.iou(first, second)) == pytest.approx(float(iou), abs=1e-12)
        assert float(algebra.giou(first, second)) == pytest.approx(float(giou), abs=1e-12)


@given(XYWH)
def test_conversions_describe_the_same_box(box: tuple[float, ...]) -> None:
    x, y, w, h = box
    for array in (np.array([box]), torch.tensor([box], dtype=torch.float64)):
        corners = algebra.xywh_to_xyxy(array)
        centered = algebra.xywh_to_cxcywh(array)
        assert corners.tolist() == [[x, y, x + w, y + h]]
        assert centered.tolist() == [[x + w / 2, y + h / 2, w, h]]
        assert algebra.xyxy_to_xywh(corners).tolist() == [list(box)]
        assert algebra.xyxy_to_cxcywh(corners).tolist() == centered.tolist()
        assert algebra.cxcywh_to_xyxy(centered).tolist() == corners.tolist()
        assert algebra.cxcywh_to_xywh(centered).tolist() == [list(box)]


def test_shapes_broadcast_pair_by_pair() -> None:
    rows = torch.rand(5, 1, 4).cumsum(dim=-1)
    columns = torch.rand(1, 7, 4).cumsum(dim=-1)
    table = algebra.giou(rows, columns)
    assert table.shape == (5, 7)
    assert table[3, 4] == algebra.giou(rows[3, 0], columns[0, 4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_stays_finite_for_empty_boxes(dtype: torch.dtype) -> None:
    points = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    algebra.giou(points, torch.zeros(3, 4, dtype=dtype)).sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_giou_gradient_is_that_of_its_finite_differences() -> None:
    apart = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.9, 0.7]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[2.0, 3.0, 3.0, 5.0], [0.5, 0.3, 1.4, 0.6]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda box: algebra.giou(box, other), apart)
