"""The networks answer what the published ones answer, on the published layouts with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tracker.models.checkpoints import initialize_two_stream, load_network
from tracker.models.checkpoints.layouts import to_ostrack, to_srtrack
from tracker.models.tracker import SingleStreamTracker, Tracker, TrackerOutput, TwoStreamTracker

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def parity(shared_data: Path) -> Path:
    folder = shared_data / "parity"
    if not (folder / "srtrack_expected.safetensors").is_file():
        pytest.skip(f"parity weights are not in {folder}; set RGBX_SHARED to the folder that holds parity/")
    return folder


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, Tensor]:
    return load_file(parity / "srtrack_expected.safetensors")


def answer(network: Tracker, given: dict[str, Tensor]) -> TrackerOutput:
    with torch.no_grad():
        output: TrackerOutput = network(given["template"], given["search"])
    return output


def worst(output: Tensor, expected: Tensor) -> float:
    assert output.shape == expected.shape
    return float((output - expected).abs().max())


def test_srtrack_weights_answer_as_published(parity: Path, expected: dict[str, Tensor]) -> None:
    network, config, meta = load_network(parity / "srtrack_format.safetensors", num_heads=3)
    assert meta == {"layout": "srtrack"}
    assert isinstance(network, TwoStreamTracker)
    assert (config.embed_dim, config.depth, config.cross) == (48, 12, (2, 5, 8, 11))
    output = answer(network, expected)
    assert worst(output.boxes, expected["full_pred_boxes"]) < TOLERANCE
    assert worst(output.score_map, expected["full_score_map"]) < TOLERANCE
    assert worst(output.size_map, expected["full_size_map"]) < TOLERANCE
    assert worst(output.offset_map, expected["full_offset_map"]) < TOLERANCE


@pytest.mark.parametrize("given", ["tracker", "published state"])
def test_ostrack_weights_initialize_as_published(parity: Path, expected: dict[str, Tensor], given: str) -> None:
    rgb, config, meta = load_network(parity / "ostrack_format.safetensors", num_heads=3)
    assert meta == {"layout": "ostrack"}
    assert isinstance(rgb, SingleStreamTracker)
    if given == "tracker":
        network = initialize_two_stream(rgb)
    else:
        state = load_file(parity / "ostrack_format.safetensors")
        network = initialize_two_stream(state, config.replace(kind="two_stream"))
    output = answer(network, expected)
    assert worst(output.boxes, expected["pred_boxes"]) < TOLERANCE
    assert worst(output.score_map, expected["score_map"]) < TOLERANCE
    assert worst(output.size_map, expected["size_map"]) < TOLERANCE
    assert worst(output.offset_map, expected["offset_map"]) < TOLERANCE
    assert worst(output.features, expected["backbone_feat"]) < TOLERANCE


@pytest.mark.parametrize("layout", ["ostrack", "srtrack"])
def test_conversion_there_and_back_keeps_every_tensor(parity: Path, layout: str) -> None:
    file = parity / f"{layout}_format.safetensors"
    network, _, _ = load_network(file, num_heads=3)
    back = {"ostrack": to_ostrack, "srtrack": to_srtrack}[layout](network.state_dict())
    published = load_file(file)
    assert back.keys() == published.keys()
    for name, tensor in published.items():
        if name != "backbone.cls_token":  # nobody reads it; it is written back as zeros
            assert torch.equal(back[name], tensor), name
