"""The plain tracker that results from a method that merges answers as the tuned one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tracker.tuning.small import crops, rgb_tracker, saved_rgb, tuned
from tracker.models.checkpoints import initialize_two_stream
from tracker.models.config import vit_b_256
from tracker.models.groups import parameter_groups
from tracker.models.tracker import TwoStreamTracker, build_network
from tracker.tuning.files import load_tracker, save_tracker, tune

MERGING = [
    ("lora", {}),
    ("lora", {"dora": True}),
    ("lora", {"targets": ("qkv",), "rank": 3}),
    ("adapters", {"width": 7}),
    ("frozen", {}),
]


@pytest.mark.parametrize(("method", "settings"), MERGING)
def test_a_merged_network_answers_the_same(method: str, settings: dict[str, object]) -> None:
    base = rgb_tracker(elimination_layers=(1,), keep_ratio=0.6).double()
    network = tuned(method, base, **settings).double()
    plain = network.merged()
    assert type(plain) is TwoStreamTracker
    template, search = (crop.double() for crop in crops(network.config))
    with torch.no_grad():
        found, expected = plain(template, search), network(template, search)
        untouched = network.base(template, search) if method == "adapters" else None
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    if untouched is not None:
        assert not torch.allclose(untouched.features, expected.features, rtol=1e-3)
    names = {name for name, _ in plain.named_parameters()}
    assert names == {name for name, _ in build_network(base.config.replace(kind="two_stream")).named_parameters()}


@pytest.mark.parametrize("method", ["lora", "adapters"])
def test_at_its_start_a_method_changes_nothing(method: str) -> None:
    base = rgb_tracker()
    network = tune(base, method).eval()
    plain = initialize_two_stream(rgb_tracker())
    with torch.no_grad():
        for found, expected in zip(network(*crops(base.config)), plain(*crops(base.config)), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["lora", "adapters"])
def test_what_is_loaded_is_merged(tmp_path: Path, method: str) -> None:
    network = tuned(method, saved_rgb(tmp_path / "rgb.safetensors"))
    save_tracker(tmp_path / "tuned.safetensors", network)
    plain, config, _ = load_tracker(tmp_path / "tuned.safetensors")
    assert type(plain) is TwoStreamTracker
    assert plain.config == config
    save_tracker(tmp_path / "plain.safetensors", plain)
    again, _, _ = load_tracker(tmp_path / "plain.safetensors")
    with torch.no_grad():
        for found, expected in zip(again(*crops(config)), network(*crops(config)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "adapters"),
    [
        # 28 blocks; a block's four linear layers are 768 to 2304, 768, 3072 and back: rank * (inputs + outputs) each.
        ("lora", 28 * 16 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))),
        ("adapters", 28 * (2 * 768 * 64 + 64 + 768)),
    ],
)
def test_vit_b_has_as_many_as_counted_by_hand(method: str, adapters: int) -> None:
    with torch.device("meta"):
        network = tune(build_network(vit_b_256()), method)
    groups = {group["name"]: sum(p.numel() for _, p in group["params"]) for group in parameter_groups(network)}
    assert groups == {"embed_x": 590_592, "adapters": adapters}
