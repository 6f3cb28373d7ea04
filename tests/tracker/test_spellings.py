"""Styles are spelled in American English, and their British names are understood wherever a style is given."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tracker.cli import cli
from tracker.config import RunConfig, load_config
from tracker.data.depth import depth_to_image
from tracker.data.events import voxels_to_image
from tracker.data.rendering import XStyle
from tracker.inference import InferenceSettings
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import preset
from tracker.models.tracker import build_network
from tracker.spellings import AMERICAN, american

SMALL = preset(
    "tiny", kind="two_stream", embed_dim=16, depth=2, num_heads=2, template_size=32, search_size=64, head_channels=8,
    cross_layers=(0,),
)  # fmt: skip


def test_other_values_stay() -> None:
    assert [american(value) for value in ("grey", "colour", "jet", "gray", None, 3)] == [
        "gray", "color", "jet", "gray", None, 3,
    ]  # fmt: skip
    assert not set(AMERICAN) & set(AMERICAN.values())


def test_in_a_configuration_and_on_its_command_line(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("data: {root: /a, depth_style: grey, event_style: colour}\n")
    data = load_config(RunConfig, tmp_path / "old.yaml").data
    assert (data.depth_style, data.event_style) == ("gray", "color")
    data = load_config(RunConfig, None, ["data.root=/a", "data.event_style=grey"]).data
    assert data.event_style == "gray"


def test_in_a_checkpoint(tmp_path: Path) -> None:
    old = {"inference": {"depth_style": "grey", "event_style": "colour"}}
    save_network(tmp_path / "old.safetensors", build_network(SMALL), meta=old)
    settings = InferenceSettings.from_meta(load_network(tmp_path / "old.safetensors")[2])
    assert (settings.depth_style, settings.event_style) == ("gray", "color")
    assert settings.rendering == XStyle("gray", True, "color") == XStyle("grey", True, "colour")


@pytest.mark.parametrize("style", ["grey", "gray"])
def test_on_the_command_line_of_tracking(tmp_path: Path, style: str) -> None:
    torch_seeded = build_network(SMALL)
    save_network(tmp_path / "a.safetensors", torch_seeded)
    for name, dtype in (("color", np.uint8), ("depth", np.uint16)):
        (tmp_path / "walk" / name).mkdir(parents=True)
        for index in range(2):
            image = np.full((48, 64) if name == "depth" else (48, 64, 3), 100, dtype)
            cv2.imwrite(str(tmp_path / "walk" / name / f"{index}.png"), image)
    arguments = ["track", tmp_path / "a.safetensors", tmp_path / "walk", "--layout", "folders", "--init-box",
                 "10,10,20,20", "--out", tmp_path / "out", "--overlay", "none", "--depth-style", style]  # fmt: skip
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def test_in_functions() -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4)
    np.testing.assert_array_equal(depth_to_image(depth, "grey"), depth_to_image(depth, "gray"))
    voxels = np.random.default_rng(0).integers(-1, 2, (3, 4, 5))
    np.testing.assert_array_equal(voxels_to_image(voxels, "colour"), voxels_to_image(voxels, "color"))


def test_drawing_events_takes_both(tmp_path: Path) -> None:
    for style in ("colour", "color", "grey", "gray"):
        result = CliRunner().invoke(cli, ["data", "render-events", str(tmp_path), "--style", style])
        assert "no sequence in a known layout" in result.stderr, result.output
