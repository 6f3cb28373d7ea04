"""Masking and losses of distillation against their definitions, written out in loops over plain numbers in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tracker.tuning.distill_losses import Distiller, Tap, TeacherTaps, kept_rows, separated
from tracker.tuning.distill_masking import LEAST_CONTRAST, block_contrast, draw_hidden, hide_blocks

BLOCK = 4


def crops(side: int = 8, batch: int = 3) -> Tensor:
    return torch.randn(batch, 6, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def contrast_by_hand(planes: list[list[list[float]]], rows: range, columns: range) -> float:
    variances = []
    for plane in planes:
        values = [plane[i][j] for i in rows for j in columns]
        mean = sum(values) / len(values)
        variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    return math.sqrt(sum(variances) / len(variances))


@pytest.mark.parametrize("side", [8, 10])
def test_contrast_is_the_deviation_within_a_block(side: int) -> None:
    given = crops(side)
    found = block_contrast(given, BLOCK)
    assert found.shape[-1] == math.ceil(side / BLOCK)
    for sample, image in enumerate(given.tolist()):
        for modality in (0, 1):
            for i in range(found.shape[-1]):
                for j in range(found.shape[-1]):
                    spans = [range(k * BLOCK, min(side, (k + 1) * BLOCK)) for k in (i, j)]
                    expected = contrast_by_hand(image[3 * modality : 3 * modality + 3], *spans)
                    assert float(found[sample, modality, i, j]) == pytest.approx(expected, rel=1e-10)


def test_a_sample_hides_one_modality_as_often_as_told() -> None:
    torch.manual_seed(0)
    hidden = draw_hidden(20_000, 0.4, torch.device("cpu"))
    assert not hidden.all(dim=1).any()
    share = hidden.double().mean(dim=0)
    # Each with 0.2: four standard deviations of the mean of 20,000 draws.
    assert (share - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / 20_000)
    assert not draw_hidden(100, 0.0, torch.device("cpu")).any()
    assert draw_hidden(100, 1.0, torch.device("cpu")).any(dim=1).all()


def test_whole_blocks_of_the_hidden_modality_vanish_and_nothing_else() -> None:
    torch.manual_seed(0)
    given = crops(16)
    hidden = torch.tensor([[True, False], [False, True], [False, False]])
    found = hide_blocks(given, hidden, BLOCK, share=0.5)
    assert torch.equal(found[2], given[2])
    for sample, modality in ((0, 0), (1, 1)):
        shown = slice(3, 6) if modality == 0 else slice(0, 3)
        half = slice(0, 3) if modality == 0 else slice(3, 6)
        assert torch.equal(found[sample, shown], given[sample, shown])
        blocks = (
            found[sample, half].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).permute(1, 2, 0, 3, 4).reshape(16, -1)
        )
        before = (
            given[sample, half].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).permute(1, 2, 0, 3, 4).reshape(16, -1)
        )
        gone = (blocks == 0).all(dim=1)
        assert int(gone.sum()) == 8
        assert torch.equal(blocks[~gone], before[~gone])


def test_blocks_are_hidden_in_proportion_to_the_other_modalitys_contrast() -> None:
    """Of four blocks one is hidden. The frequencies are those of the weights, within four standard deviations."""
    torch.manual_seed(0)
    draws = 20_000
    one = crops(8, batch=1)
    one[:, 3:, :4, :4] *= 3.0  # X has much to show in the first block
    one[:, 3:, 4:, 4:] = 0.7  # and nothing in the last
    weights = [
        contrast_by_hand(one[0, 3:].tolist(), range(i, i + 4), range(j, j + 4)) + LEAST_CONTRAST
        for i in (0, 4)
        for j in (0, 4)
    ]
    found = hide_blocks(one.expand(draws, -1, -1, -1), torch.tensor([[True, False]]).expand(draws, -1), BLOCK, 0.25)
    gone = (found[:, 0] == 0).unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).all(dim=-1).all(dim=-1).flatten(1)
    assert torch.equal(gone.sum(dim=1), torch.ones(draws, dtype=torch.int64))
    for count, weight in zip(gone.sum(dim=0).tolist(), weights, strict=True):
        probability = weight / sum(weights)
        assert abs(count / draws - probability) < 4 * math.sqrt(probability * (1 - probability) / draws) + 1e-9


def unit_by_hand(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def test_losses_are_those_written_out() -> None:
    batch, taps, count, narrow, wide = 2, 3, 4, 3, 5
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rgb, x, after = random(batch, taps, count, wide), random(batch, taps, count, wide), random(batch, taps, count, wide)
    layers, features = [random(batch, count, narrow) for _ in range(taps)], random(batch, count, narrow)
    distiller = Distiller(narrow, wide, taps).double()
    with torch.no_grad():
        distiller.paths.copy_(random(taps))
    common, specific = separated(rgb, x)
    fused = torch.nn.functional.normalize(after, dim=-1)
    with torch.no_grad():
        found = distiller([Tap(h, None) for h in layers], Tap(features, None), TeacherTaps(common, specific, fused), 1)

    def projected(layer: torch.nn.Linear, vector: Tensor) -> list[float]:
        return [
            sum(w * v for w, v in zip(row, vector.tolist(), strict=True)) + bias
            for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]

    def apart(a: list[float], b: list[float]) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    exponentials = [math.exp(value) for value in distiller.paths.tolist()]
    for b in range(batch):
        sums = {"common": 0.0, "specific": 0.0, "fusion": 0.0}
        for n in range(count):
            for k in range(taps):
                r, t = rgb[b, k, n].tolist(), x[b, k, n].tolist()
                mean = unit_by_hand([(p + q) / 2 for p, q in zip(r, t, strict=True)])
                difference = unit_by_hand([p - q for p, q in zip(r, t, strict=True)])
                sums["common"] += apart(unit_by_hand(projected(distiller.common[k], layers[k][b, n])), mean) / taps
                sums["specific"] += (
                    apart(unit_by_hand(projected(distiller.specific[k], layers[k][b, n])), difference) / taps
                )
            mixture = [
                sum(
                    e / sum(exponentials) * unit_by_hand(after[b, k, n].tolist())[d] for k, e in enumerate(exponentials)
                )
                for d in range(wide)
            ]
            sums["fusion"] += apart(unit_by_hand(projected(distiller.fused, features[b, n])), mixture)
        for name, total in sums.items():
            assert float(found[name][b]) == pytest.approx(total / count, rel=1e-10), name


def test_paths_start_equal_and_learn() -> None:
    distiller = Distiller(2, 3, 2)
    taps = torch.nn.functional.normalize(torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert distiller.paths.softmax(0).tolist() == [0.5, 0.5]
    student = Tap(torch.ones(1, 4, 2), None)
    distiller([student] * 2, student, TeacherTaps(taps, taps, taps), 1)["fusion"].sum().backward()
    assert distiller.paths.grad is not None
    assert distiller.paths.grad.abs().max() > 0


def test_a_student_that_dropped_tokens_is_compared_with_the_rows_it_kept() -> None:
    rows = torch.arange(12.0).reshape(2, 6, 1)  # two of the template, four search cells
    kept = torch.tensor([[0, 3], [1, 2]])
    assert kept_rows(rows, kept, 2).flatten(1).tolist() == [[0, 1, 2, 5], [6, 7, 9, 10]]
    assert torch.equal(kept_rows(rows, None, 2), rows)
