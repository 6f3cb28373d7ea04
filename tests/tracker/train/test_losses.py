"""The training loss agrees with scalar derivations, and with the published reduction over a batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.center_head import decode_boxes
from tracker.models.tracker import TrackerOutput
from tracker.train.losses import TrackingLoss, focal_loss, gaussian_radius, gaussian_target

CELLS = 16  # at 8, the radius of these boxes is 0, and nothing would depend on the Gaussian


def scalar_radius(width: float, height: float, overlap: float = 0.7) -> float:
    """Return the three quadratics, each as a, b, c, with the root that does not divide by a."""
    roots = []
    for a, b, c in (
        (1.0, height + width, width * height * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * (height + width), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height),
    ):
        roots.append((b + math.sqrt(b * b - 4 * a * c)) / 2)
    return min(roots)


def scalar_target(box: list[float], cells: int) -> list[list[float]]:
    """Return one heat map, painted cell by cell."""
    cx, cy, w, h = (value * cells for value in box)
    radius = max(0, int(scalar_radius(w, h)))
    sigma = (2 * radius + 1) / 6
    ix, iy = (min(max(int(torch.tensor(v, dtype=torch.float64).round()), 0), cells - 1) for v in (cx, cy))
    heat = [[0.0] * cells for _ in range(cells)]
    for y in range(cells):
        for x in range(cells):
            if abs(x - ix) <= radius and abs(y - iy) <= radius:
                heat[y][x] = math.exp(-((x - ix) ** 2 + (y - iy) ** 2) / (2 * sigma**2))
    return heat


def scalar_focal(score: list[list[float]], heat: list[list[float]]) -> float:
    loss = 0.0
    for p_row, y_row in zip(score, heat, strict=True):
        for p, y in zip(p_row, y_row, strict=True):
            if y == 1.0:
                loss -= (1 - p) ** 2 * math.log(p)
            else:
                loss -= (1 - y) ** 4 * p**2 * math.log(1 - p)
    return loss


def random_output(batch: int, seed: int = 0, cells: int = CELLS) -> TrackerOutput:
    generator = torch.Generator().manual_seed(seed)

    def uniform(channels: int) -> Tensor:
        return torch.rand(batch, channels, cells, cells, generator=generator, dtype=torch.float64) * 0.9 + 0.05

    score, size, offset = uniform(1), uniform(2), uniform(2)
    boxes = decode_boxes(score, size, offset)[:, None]
    return TrackerOutput(score, size, offset, boxes, torch.empty(0))


BOXES = torch.tensor(
    [[0.5, 0.5, 0.25, 0.3], [0.1, 0.9, 0.5, 0.4], [0.31, 0.44, 0.05, 0.02], [0.02, 0.5, 0.3, 0.6]],
    dtype=torch.float64,
)

SIDES = st.floats(0.01, 0.99)


@given(SIDES, SIDES)
def test_radius_is_the_smallest_of_cornernets_three(width: float, height: float) -> None:
    sides = torch.tensor([[16 * width], [16 * height]], dtype=torch.float64)
    assert float(gaussian_radius(*sides)) == pytest.approx(scalar_radius(16 * width, 16 * height), rel=1e-9)


@given(st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), min_size=1, max_size=3), st.sampled_from([4, 8, 16, 24]))
@settings(max_examples=40)
def test_target_equals_a_map_painted_cell_by_cell(boxes: list[tuple[float, ...]], cells: int) -> None:
    # A radius within rounding of a whole number may be cut either way; only the cut's side is at stake there.
    boxes = [
        box for box in boxes if abs((radius := scalar_radius(box[2] * cells, box[3] * cells)) - round(radius)) > 1e-6
    ]
    target = gaussian_target(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), cells)
    assert target.shape == (len(boxes), 1, cells, cells)
    for heat, box in zip(target, boxes, strict=True):
        expected = torch.tensor(scalar_target(list(box), cells), dtype=torch.float64)
        torch.testing.assert_close(heat[0], expected, rtol=1e-12, atol=1e-12)
        assert int((heat == 1).sum()) == 1


def test_a_center_that_rounds_off_the_map_still_has_its_positive_cell() -> None:
    target = gaussian_target(torch.tensor([[0.99, 0.97, 0.2, 0.2], [1.0, 0.0, 0.1, 0.1]]), CELLS)
    assert (target == 1).nonzero()[:, 2:].tolist() == [[15, 15], [0, 15]]


def test_single_precision_targets_have_exactly_one_positive() -> None:
    boxes = torch.rand(2000, 4, generator=torch.Generator().manual_seed(1))
    assert ((gaussian_target(boxes, 16) == 1).flatten(1).sum(dim=1) == 1).all()


def test_focal_loss_equals_the_sum_over_cells() -> None:
    output = random_output(4)
    target = gaussian_target(BOXES, CELLS)
    expected = [
        scalar_focal(score[0].tolist(), heat[0].tolist()) for score, heat in zip(output.score_map, target, strict=True)
    ]
    assert focal_loss(output.score_map, target).tolist() == pytest.approx(expected, rel=1e-12)


def test_mean_over_the_batch_is_the_published_batch_loss() -> None:
    """It is the mean of 1 - GIoU over boxes, the mean of L1 over coordinates, and the focal sum over positives."""
    output = random_output(4, seed=3)
    parts = TrackingLoss()(output, BOXES)
    assert all(part.shape == (4,) for part in parts.values())

    def corners(box: list[float]) -> list[float]:
        cx, cy, w, h = box
        return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]

    overlaps, differences, focal, positives = [], [], 0.0, 0
    for i in range(4):
        a = corners(output.boxes[i, 0].tolist())
        b = [min(max(value, 0.0), 1.0) for value in corners(BOXES[i].tolist())]
        differences += [abs(p - q) for p, q in zip(a, b, strict=True)]
        inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        overlaps.append(1 - (inter / union - (hull - union) / hull))
        heat = scalar_target(BOXES[i].tolist(), CELLS)
        positives += sum(value == 1.0 for row in heat for value in row)
        focal += scalar_focal(output.score_map[i, 0].tolist(), heat)
    giou, l1, heat_loss = sum(overlaps) / 4, sum(differences) / 16, focal / positives
    assert float(parts["giou"].mean()) == pytest.approx(giou, rel=1e-12)
    assert float(parts["l1"].mean()) == pytest.approx(l1, rel=1e-12)
    assert float(parts["focal"].mean()) == pytest.approx(heat_loss, rel=1e-12)
    assert float(parts["total"].mean()) == pytest.approx(2 * giou + 5 * l1 + heat_loss, rel=1e-12)


def test_a_perfect_answer_costs_nothing_but_the_focal_floor() -> None:
    heat = gaussian_target(BOXES[:1], CELLS)
    best = (heat == 1).nonzero()[0, 2:]
    size = BOXES[:1, 2:, None, None].expand(1, 2, CELLS, CELLS)
    offset = (BOXES[0, :2] * CELLS - best.flip(0))[None, :, None, None].expand(1, 2, CELLS, CELLS)
    score = heat.clamp(1e-4, 1 - 1e-4)
    output = TrackerOutput(score, size, offset, decode_boxes(score, size, offset)[:, None], torch.empty(0))
    parts = TrackingLoss()(output, BOXES[:1])
    assert float(parts["giou"]) == pytest.approx(0, abs=1e-12)
    assert float(parts["l1"]) == pytest.approx(0, abs=1e-12)
    wrong = TrackingLoss()(random_output(1), BOXES[:1])
    assert float(parts["total"]) < float(wrong["total"])


def test_gradient_of_the_loss_is_that_of_its_finite_differences() -> None:
    output = random_output(2, seed=5, cells=4)

    def total(score: Tensor, size: Tensor, offset: Tensor) -> Tensor:
        boxes = decode_boxes(score, size, offset)[:, None]
        return TrackingLoss()(TrackerOutput(score, size, offset, boxes, torch.empty(0)), BOXES[:2])["total"]

    maps = tuple(tensor.clone().requires_grad_() for tensor in output[:3])
    assert torch.autograd.gradcheck(total, maps)


def test_weights_scale_the_total_and_not_the_parts() -> None:
    output = random_output(4)
    published, focal_only = TrackingLoss()(output, BOXES), TrackingLoss(0.0, 0.0, 3.0)(output, BOXES)
    torch.testing.assert_close(focal_only["total"], 3 * published["focal"])
    assert torch.equal(focal_only["l1"], published["l1"])


def test_half_precision_outputs_are_judged_in_single() -> None:
    output = random_output(4)
    low = TrackerOutput(*(tensor.to(torch.bfloat16) for tensor in output))
    parts = TrackingLoss()(low, BOXES)
    single = TrackingLoss()(TrackerOutput(*(tensor.float() for tensor in low)), BOXES.float())
    assert parts["total"].dtype == torch.float32
    assert torch.equal(parts["total"], single["total"])


def test_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(RGBXError, match=r"\(4, 4\)"):
        TrackingLoss()(random_output(4), BOXES[:3])
