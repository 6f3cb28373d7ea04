"""PATrack's adapters against their definitions, written out in loops over plain numbers in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tracker.tuning.patrack_adapters import FrequencyMixer, SharedGuidanceFusion, TaskAdapter, low_frequency

DIM = 8
Map = list[list[list[float]]]
"""Channels, rows, columns."""


def gelu(value: float) -> float:
    return 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0)))


def seeded(module: nn.Module) -> nn.Module:
    """Return weights of which none is near zero or like another."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module.eval()


def tokens(count: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weight: Tensor, bias: Tensor | None, vector: list[float]) -> list[float]:
    rows = weight.reshape(weight.shape[0], -1).tolist()
    shift = [0.0] * len(rows) if bias is None else bias.tolist()
    return [sum(w * v for w, v in zip(row, vector, strict=True)) + b for row, b in zip(rows, shift, strict=True)]


def pointwise(weight: Tensor, bias: Tensor | None, maps: Map) -> Map:
    side = len(maps[0])
    out: Map = [[[0.0] * side for _ in range(side)] for _ in range(weight.shape[0])]
    for i in range(side):
        for j in range(side):
            for channel, value in enumerate(linear(weight, bias, [plane[i][j] for plane in maps])):
                out[channel][i][j] = value
    return out


def around(plane: list[list[float]], i: int, j: int) -> dict[tuple[int, int], float]:
    """Return the neighbors of a cell that lie on the map, by their place in a 3x3 window."""
    side = len(plane)
    places = [(a, b) for a in range(3) for b in range(3) if 0 <= i + a - 1 < side and 0 <= j + b - 1 < side]
    return {(a, b): plane[i + a - 1][j + b - 1] for a, b in places}


def depthwise(weight: Tensor, maps: Map) -> Map:
    kernels = weight[:, 0].tolist()
    side = range(len(maps[0]))

    def at(channel: int, i: int, j: int) -> float:
        return sum(kernels[channel][a][b] * value for (a, b), value in around(maps[channel], i, j).items())

    return [[[at(channel, i, j) for j in side] for i in side] for channel in range(len(maps))]


def each(function: Callable[[float], float], maps: Map) -> Map:
    return [[[function(value) for value in row] for row in plane] for plane in maps]


def largest_around(maps: Map) -> Map:
    side = range(len(maps[0]))
    return [[[max(around(plane, i, j).values()) for j in side] for i in side] for plane in maps]


def block_means(maps: Map) -> Map:
    side = len(maps[0])

    def mean(plane: list[list[float]], i: int, j: int) -> float:
        rows = [r for r in (i // 2 * 2, i // 2 * 2 + 1) if r < side]
        columns = [c for c in (j // 2 * 2, j // 2 * 2 + 1) if c < side]
        values = [plane[r][c] for r in rows for c in columns]
        return sum(values) / len(values)

    return [[[mean(plane, i, j) for j in range(side)] for i in range(side)] for plane in maps]


def mixed_by_hand(state: dict[str, Tensor], grid: list[list[float]], side: int) -> list[list[float]]:
    """Run one map's tokens, ``(side * side, DIM)``, through the mixer."""
    low_rank = [linear(state["down.weight"], state["down.bias"], token) for token in grid]
    maps = [[[low_rank[i * side + j][c] for j in range(side)] for i in range(side)] for c in range(8)]
    convolved = each(
        gelu, depthwise(state["high.depthwise.weight"], pointwise(state["high.expand.weight"], None, maps[:2]))
    )
    pooled = pointwise(state["high.pooled.weight"], state["high.pooled.bias"], largest_around(maps[2:4]))
    bands = convolved + each(gelu, pooled) + block_means(maps[4:])
    smooth = depthwise(state["fuse.weight"], bands)
    total = [[[bands[c][i][j] + smooth[c][i][j] for j in range(side)] for i in range(side)] for c in range(12)]
    up = pointwise(state["up.weight"], state["up.bias"], total)
    return [[up[c][i][j] for c in range(DIM)] for i in range(side) for j in range(side)]


@pytest.mark.parametrize("grids", [(2, 4), (3, 5)])
def test_a_mixer_takes_each_grid_apart_as_written_out(grids: tuple[int, int]) -> None:
    """The sides 3 and 5 are odd, which the published code does not take."""
    mixer = seeded(FrequencyMixer(DIM, grids).double())
    given = tokens(grids[0] ** 2 + grids[1] ** 2)
    with torch.no_grad():
        found = mixer(given)
    for sample, answer in zip(given.tolist(), found, strict=True):
        expected, first = [], 0
        for side in grids:
            expected += mixed_by_hand(mixer.state_dict(), sample[first : first + side * side], side)
            first += side * side
        torch.testing.assert_close(answer, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_low_frequencies_of_a_ramp_are_the_means_of_its_blocks() -> None:
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = torch.tensor([[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2)
    assert torch.equal(low_frequency(ramp)[0, 0], expected)


def fused_by_hand(state: dict[str, Tensor], rgb: list[list[float]], x: list[list[float]]) -> list[list[list[float]]]:
    """Return what both modalities receive, of the tokens of one grid."""
    narrow = [[linear(state["down.weight"], None, token) for token in modality] for modality in (rgb, x)]
    guidance = [linear(state["guidance.weight"], None, a + b) for a, b in zip(*narrow, strict=True)]
    received = []
    for index in (0, 1):
        keys = [linear(state[f"keys.{index}.weight"], None, token) for token in narrow[index]]
        values = [linear(state[f"values.{index}.weight"], None, token) for token in narrow[index]]
        out = []
        for i, key in enumerate(keys):
            products = [sum(a * b for a, b in zip(key, g, strict=True)) for g in guidance]
            weights = [math.exp(product - max(products)) for product in products]
            attended = [
                sum(w * v[c] for w, v in zip(weights, values, strict=True)) / sum(weights) for c in range(DIM // 4)
            ]
            gate = float(state[f"gates.{index}"]) if f"gates.{index}" in state else 1.0
            other = narrow[1 - index][i]
            out.append(linear(state["up.weight"], None, [gate * a + b for a, b in zip(attended, other, strict=True)]))
        received.append(out)
    return received


@pytest.mark.parametrize("gated", [False, True])
def test_fusion_attends_by_the_shared_guidance_as_written_out(gated: bool) -> None:
    fusion = seeded(SharedGuidanceFusion(DIM, (1, 2), gated).double())
    rgb, x = tokens(5, seed=2), tokens(5, seed=3)
    with torch.no_grad():
        found = fusion(rgb, x)
    for sample in range(2):
        both = rgb[sample].tolist(), x[sample].tolist()
        template = fused_by_hand(fusion.state_dict(), *(tokens[:1] for tokens in both))
        search = fused_by_hand(fusion.state_dict(), *(tokens[1:] for tokens in both))
        for index in (0, 1):
            expected = torch.tensor(template[index] + search[index], dtype=torch.float64)
            torch.testing.assert_close(found[index][sample], expected, rtol=1e-12, atol=1e-12)


def test_a_closed_gate_leaves_the_other_modality_alone() -> None:
    fusion = SharedGuidanceFusion(DIM, (1, 2), gated=True).double()
    rgb, x = tokens(5, seed=2), tokens(5, seed=3)
    to_rgb, to_x = fusion(rgb, x)
    torch.testing.assert_close(to_rgb, fusion.up(fusion.down(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(to_x, fusion.up(fusion.down(rgb)), rtol=1e-12, atol=1e-12)


def test_the_task_adapter_is_three_linear_layers_and_drops_in_training_alone() -> None:
    adapter = seeded(TaskAdapter(DIM, dropout=0.5).double())
    given = tokens(3)
    state = adapter.state_dict()
    with torch.no_grad():
        found = adapter(given)
        adapter.train()
        dropped = adapter(given)
    for index, token in enumerate(given[0].tolist()):
        for name in ("down", "middle", "up"):
            token = linear(state[f"{name}.weight"], state[f"{name}.bias"], token)
        torch.testing.assert_close(found[0, index], torch.tensor(token, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert not torch.equal(found, dropped)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: FrequencyMixer(768, (8, 16)), 16_300),
        # With the two gates that the published code creates; they are no part of what it computes.
        (lambda: SharedGuidanceFusion(768, (8, 16), gated=True), 516_098),
        (lambda: SharedGuidanceFusion(768, (8, 16)), 516_096),
        (lambda: TaskAdapter(768), 332_928),
    ],
)
def test_parameters_at_the_width_of_vit_b_are_as_many_as_published(make: Callable[[], nn.Module], count: int) -> None:
    with torch.device("meta"):
        module = make()
    assert sum(parameter.numel() for parameter in module.parameters()) == count
