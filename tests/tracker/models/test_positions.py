"""Position embeddings at other sizes agree with Pillow's interpolation, wherever a network changes its size."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from srft_kernels import SignificanceMap
from tests.tracker.models.cases import seeded, small
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network, save_network, save_published
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.checkpoints.layouts import to_ostrack
from tracker.models.checkpoints.position_resizing import fit_positions, resize_positions
from tracker.train.prior import prior_for

POSITIONS = {"positions.template", "positions.search"}
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def by_pillow(positions: Tensor, cells: int, interpolation: str) -> Tensor:
    """Return every channel as a picture of its own."""
    side = round(positions.shape[1] ** 0.5)
    channels = []
    for channel in positions[0].T.reshape(-1, side, side).numpy():
        resized = Image.fromarray(channel.astype(np.float32)).resize((cells, cells), PILLOW[interpolation])
        channels.append(torch.from_numpy(np.array(resized)).flatten())
    return torch.stack(channels, dim=1)[None]


@given(st.integers(1, 12), st.integers(1, 14), st.sampled_from(list(PILLOW)), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_resizing_is_pillows(before: int, after: int, interpolation: str, seed: int) -> None:
    positions = torch.randn(1, before * before, 3, generator=torch.Generator().manual_seed(seed))
    resized = resize_positions(positions, after, interpolation)
    if before == after:
        assert resized is positions
    else:
        # Both sum a few dozen products of float32 along each axis, with weights of both signs.
        rounding = 32 * torch.finfo(torch.float32).eps * float(positions.abs().max())
        torch.testing.assert_close(resized, by_pillow(positions, after, interpolation), rtol=0, atol=rounding)


@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_what_is_not_negative_stays_so_and_within_its_range(before: int, after: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    significance = torch.rand(1, before * before, 2, generator=generator) ** 20  # mostly 0, with peaks
    resized = resize_positions(significance, after, "bilinear")
    assert float(resized.min()) >= 0
    assert float(resized.max()) <= float(significance.max()) * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(1, 15, 4), (2, 16, 4), (16, 4), (1, 0, 4)])
def test_positions_that_are_no_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RGBXError, match="no square grid"):
        fit_positions({"positions.search": torch.zeros(shape)}, small(), "a file")


@pytest.mark.parametrize("published", [False, True])
def test_an_rgb_tracker_starts_a_two_stream_one_of_another_size(
    published: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rgb = seeded(small())
    config = small(kind="two_stream", template_size=24, search_size=48)
    with caplog.at_level(logging.WARNING, logger="tracker"):
        network = initialize_two_stream(to_ostrack(rgb.state_dict()) if published else rgb, config)
    assert [record.getMessage() for record in caplog.records] == [
        "positions.template of the RGB tracker's state resized from 2 x 2 to 3 x 3 cells (bicubic)",
        "positions.search of the RGB tracker's state resized from 4 x 4 to 6 x 6 cells (bicubic)",
    ]
    assert torch.equal(network.positions.template, resize_positions(rgb.positions.template.detach(), 3))
    assert torch.equal(network.positions.search, resize_positions(rgb.positions.search.detach(), 6))
    for name, tensor in rgb.state_dict().items():
        if name not in POSITIONS:
            assert torch.equal(network.state_dict()[name], tensor)
    with torch.no_grad():
        output = network(torch.zeros(1, 6, 24, 24), torch.zeros(1, 6, 48, 48))
    assert output.score_map.shape == (1, 1, 6, 6)


def test_one_grid_alone_may_change(caplog: pytest.LogCaptureFixture) -> None:
    rgb = seeded(small())
    network = initialize_two_stream(rgb, small(kind="two_stream", search_size=40))
    assert torch.equal(network.positions.template, rgb.positions.template)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth.tar"])
def test_networks_load_at_another_size_and_say_so(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    network = seeded(small())
    heads: dict[str, Any] = {}
    if name == "a.safetensors":
        save_network(tmp_path / name, network, meta={"seed": 3})
    else:
        save_published(tmp_path / name, network)
        heads = {"num_heads": 2}
    loaded, config, meta = load_network(tmp_path / name, template_size=24, search_size=48, **heads)
    assert config == network.config.replace(template_size=24, search_size=48)
    assert meta["positions_resized"] == [{"template": [2, 3], "search": [4, 6]}]
    assert len(caplog.records) == 2
    for key, tensor in network.state_dict().items():
        if key not in POSITIONS:
            assert torch.equal(loaded.state_dict()[key], tensor)
    assert torch.equal(loaded.positions.search, resize_positions(network.positions.search.detach(), 6))

    caplog.clear()
    same, _, meta_of_same = load_network(tmp_path / name, template_size=16, search_size=32, **heads)
    assert not caplog.records
    assert "positions_resized" not in meta_of_same
    assert torch.equal(same.positions.search, network.positions.search)

    save_network(tmp_path / "b.safetensors", loaded, meta=meta)
    _, _, again = load_network(tmp_path / "b.safetensors", search_size=64)
    assert again["positions_resized"] == [{"template": [2, 3], "search": [4, 6]}, {"search": [6, 8]}]


def test_a_size_that_the_patch_does_not_divide_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path / "a.safetensors", seeded(small()))
    with pytest.raises(RGBXError, match="search_size 50 does not divide by the patch size 8"):
        load_network(tmp_path / "a.safetensors", search_size=50)


def test_a_damaged_file_is_not_resized_into_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_network(path, seeded(small()))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), "positions.search": torch.zeros(1, 25, 24)}, path, metadata)
    for sizes in ({}, {"template_size": 24}):
        with pytest.raises(RGBXError, match=r"positions\.search is \(1, 25, 24\) and must be \(1, 16, 24\)"):
            load_network(path, **sizes)


def test_significance_goes_the_way_of_the_weights() -> None:
    rgb = seeded(small())
    generator = torch.Generator().manual_seed(1)
    prior = SignificanceMap(
        {name: torch.rand(p.shape, generator=generator) ** 8 for name, p in rgb.named_parameters()},
        estimator="fisher",
        samples=5,
        info={"seed": 1},
    )
    network = initialize_two_stream(rgb, small(kind="two_stream", search_size=48))
    carried = prior_for(network, prior)
    assert carried.check(network) == []
    assert torch.equal(
        carried["positions.search"], resize_positions(prior["positions.search"], 6, interpolation="bilinear")
    )
    assert torch.equal(carried["positions.template"], prior["positions.template"])
    for target in ("rgb.blocks.2.mlp.fc1.weight", "x.blocks.2.mlp.fc1.weight", "cross.0.mlp.fc1.weight"):
        assert torch.equal(carried[target], prior["rgb.blocks.2.mlp.fc1.weight"])
    assert (carried.estimator, carried.samples) == ("fisher", 5)
    assert carried.info == {"seed": 1, "positions_resized": {"search": [4, 6]}}
    assert prior.info == {"seed": 1}
    assert prior_for(rgb, prior) is prior
