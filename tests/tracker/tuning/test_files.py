"""Files of tuned networks hold what was trained and no more, and fit no base but their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tracker.tuning.small import crops, saved_rgb, tuned
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network, save_network
from tracker.models.groups import GroupSettings, parameter_groups
from tracker.tuning.files import load_tracker, save_tracker
from tracker.tuning.methods import METHODS


def changed(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network whose trained weights have moved."""
    parameter_groups(network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


@pytest.mark.parametrize("method", METHODS)
def test_a_file_has_what_was_trained_and_gives_the_network_back(tmp_path: Path, method: str) -> None:
    base = saved_rgb(tmp_path / "rgb.safetensors")
    network = changed(tuned(method, base))
    save_tracker(tmp_path / "tuned.safetensors", network, {"seed": 3})  # type: ignore[arg-type]
    held = set(load_file(tmp_path / "tuned.safetensors"))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not METHODS[method].saves_base:
        assert held == trained
    again, config, meta = load_tracker(tmp_path / "tuned.safetensors", merge=False)
    assert (config, meta) == (network.config, {"seed": 3})
    with torch.no_grad():
        for found, expected in zip(again(*crops(config)), network.eval()(*crops(config)), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if not kind.saves_base])
def test_another_base_is_refused(tmp_path: Path, method: str) -> None:
    save_tracker(tmp_path / "tuned.safetensors", tuned(method, saved_rgb(tmp_path / "rgb.safetensors")))
    saved_rgb(tmp_path / "other.safetensors", seed=7)
    with pytest.raises(
        RGBXError, match=r"was tuned from a network with the fingerprint .* other\.safetensors has"
    ) as e:
        load_tracker(tmp_path / "tuned.safetensors", base=tmp_path / "other.safetensors")
    assert "\n" not in str(e.value)
    load_tracker(tmp_path / "tuned.safetensors", base=tmp_path / "rgb.safetensors")
    (tmp_path / "rgb.safetensors").unlink()
    with pytest.raises(RGBXError, match=r"what tuning added to rgb\.safetensors, which is not found"):
        load_tracker(tmp_path / "tuned.safetensors")
    with pytest.raises(RGBXError, match="is tuned"):
        load_network(tmp_path / "tuned.safetensors")


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.eliminates])
def test_sizes_and_elimination_may_be_given_anew(tmp_path: Path, method: str) -> None:
    save_tracker(tmp_path / "tuned.safetensors", tuned(method, saved_rgb(tmp_path / "rgb.safetensors")))
    network, config, _ = load_tracker(
        tmp_path / "tuned.safetensors", elimination_layers=(1,), keep_ratio=0.5, search_size=96
    )
    assert (config.search_size, config.elimination_layers, config.keep_ratio) == (96, (1,), 0.5)
    assert network(*crops(config)).score_map.shape == (2, 1, 6, 6)


def test_more_of_the_base_may_train_and_is_saved(tmp_path: Path) -> None:
    """A trained head brings the statistics of its batch normalization along."""
    base = saved_rgb(tmp_path / "rgb.safetensors")
    network = tuned("sdstrack", base)
    groups = parameter_groups(network, GroupSettings(head=1e-4), also=("blocks_rgb", "head"))
    assert {group["name"] for group in groups} == {"adapters", "embed_x", "norms", "blocks_rgb", "head"}
    with torch.no_grad():
        network.head.score[0].norm.running_mean.add_(1.0)
    save_tracker(tmp_path / "tuned.safetensors", network)
    held = load_file(tmp_path / "tuned.safetensors")
    assert "base.head.score.0.norm.running_mean" in held
    assert "base.rgb.blocks.0.attn.qkv.weight" in held
    assert "base.positions.search" not in held
    again, _, _ = load_tracker(tmp_path / "tuned.safetensors")
    assert torch.equal(again.head.score[0].norm.running_mean, network.head.score[0].norm.running_mean)


def test_a_network_that_is_not_tuned_goes_through_unchanged(tmp_path: Path) -> None:
    base = saved_rgb(tmp_path / "rgb.safetensors")
    network, config, meta = load_tracker(tmp_path / "rgb.safetensors")
    assert (config, meta) == (base.config, {})
    save_tracker(tmp_path / "again.safetensors", network)
    save_network(tmp_path / "plain.safetensors", base)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    with pytest.raises(RGBXError, match="is not tuned, so it has no base"):
        load_tracker(tmp_path / "rgb.safetensors", base=tmp_path / "plain.safetensors")
