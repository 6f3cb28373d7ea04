"""SDSTrack answers as published, trains what it says, and distills between aligned tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tracker.tuning.small import crops, rgb_tracker, tuned
from tracker.config import SDSTrackSection
from tracker.errors import RGBXError
from tracker.models.config import vit_b_256
from tracker.models.groups import parameter_groups
from tracker.models.tracker import TrackerOutput, VitBlock, build_network
from tracker.train.losses import TrackingLoss
from tracker.tuning.files import load_tracker, save_tracker, tune
from tracker.tuning.sdstrack import Distilled, FusionLayer, SDSTrack

TOLERANCE = 1e-5
MAPS = {"pred_boxes": "boxes", "score_map": "score_map", "size_map": "size_map", "offset_map": "offset_map"}


@pytest.fixture(scope="module")
def parity(shared_data: Path) -> Path:
    folder = shared_data / "parity"
    if not (folder / "sdstrack_expected.safetensors").is_file():
        pytest.skip(f"parity weights are not in {folder}; set RGBX_SHARED to the folder that holds parity/")
    return folder


@pytest.mark.parametrize(("keep", "prefix"), [(1.0, "keep1"), (0.7, "keep07"), (None, "keep07")])
def test_published_weights_answer_as_published(parity: Path, keep: float | None, prefix: str) -> None:
    expected = load_file(parity / "sdstrack_expected.safetensors")
    network, config, meta = load_tracker(parity / "sdstrack_format.safetensors", num_heads=3, keep_ratio=keep)
    assert isinstance(network, SDSTrack)
    assert (config.elimination_layers, network.fusion_layers, meta) == (
        (3, 6, 9),
        (3, 6, 9, 11),
        {"layout": "sdstrack"},
    )
    with torch.no_grad():
        output = network(expected["template"], expected["search"])
    for name, field in MAPS.items():
        assert float((getattr(output, field) - expected[f"{prefix}_{name}"]).abs().max()) < TOLERANCE, name


def test_a_published_file_becomes_one_of_ours(parity: Path, tmp_path: Path) -> None:
    """There is no base elsewhere, so the file holds it."""
    network, _, meta = load_tracker(parity / "sdstrack_format.safetensors", num_heads=3)
    save_tracker(tmp_path / "ours.safetensors", network, meta)
    again, config, _ = load_tracker(tmp_path / "ours.safetensors")
    assert config == network.config
    expected, found = network.state_dict(), again.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_damaged_published_files_are_refused_by_name(parity: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = load_file(parity / "sdstrack_format.safetensors")
    del state["backbone.blocks.2.MLP_X_DTE_Adapter.D_fc1.bias"]
    state["backbone.prompt"] = torch.zeros(3)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(RGBXError, match=r"lacks cross_modal\.2\.beside_mlp\.down\.bias"):
        load_tracker(tmp_path / "a.safetensors", num_heads=3)


def test_vit_b_trains_what_the_literature_counts() -> None:
    """The paper says 14.8 M: 48 adapters of 295,872, a patch embedding of 590,592 and the last norm's 1,536."""
    with torch.device("meta"):
        network = tune(build_network(vit_b_256(kind="single_stream")), "sdstrack")
    groups = {group["name"]: sum(p.numel() for _, p in group["params"]) for group in parameter_groups(network)}
    assert groups == {"norms": 1_536, "embed_x": 590_592, "adapters": 48 * 295_872}
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 14_793_984


def test_crossed_attention_is_attention_under_a_mask() -> None:
    """It equals one softmax over the tokens of both streams, from which pairs of the same stream are ruled out."""
    torch.manual_seed(0)
    block = VitBlock(16, 2, qkv_bias=True).double().eval()
    rgb, x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    found = torch.cat(block.attend(torch.cat([rgb, x]), None, True)[0].chunk(2), dim=1)
    both = torch.cat([rgb, x], dim=1)
    queries, keys, values = block.attn.qkv(block.norm1(both)).reshape(3, 10, 3, 2, 8).permute(2, 0, 3, 1, 4)
    same = torch.block_diag(torch.ones(5, 5), torch.ones(5, 5)).bool()
    weights = (queries @ keys.mT / math.sqrt(8)).masked_fill(same, -math.inf).softmax(dim=-1)
    expected = both + block.attn.proj((weights @ values).transpose(1, 2).reshape(3, 10, 16))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_masks_never_hide_both_modalities() -> None:
    network = tuned("sdstrack")
    assert isinstance(network, SDSTrack)
    torch.manual_seed(0)
    rgb, x = network._masks(torch.zeros(200, 100, 16))
    hidden = 1 - rgb, 1 - x
    assert float(hidden[0].mean()) == pytest.approx(0.3, abs=0.015)  # five standard deviations of 20,000 draws
    assert float(hidden[1].mean()) == pytest.approx(0.21, abs=0.015)
    assert float((hidden[0] * hidden[1]).max()) == 0


def in_training(same_tokens: bool) -> tuple[SDSTrack, Distilled]:
    base = rgb_tracker(elimination_layers=(1, 2), keep_ratio=0.5)
    network = tuned("sdstrack", base, same_tokens=same_tokens)
    assert isinstance(network, SDSTrack)
    network.head.freeze_statistics()
    network.train()
    torch.manual_seed(5)
    answer = network(*crops(network.config, batch=4))
    assert isinstance(answer, Distilled)
    return network, answer


@pytest.mark.parametrize("same_tokens", [True, False])
def test_the_clean_half_is_what_evaluation_answers(same_tokens: bool) -> None:
    network, answer = in_training(same_tokens)
    network.eval()
    with torch.no_grad():
        expected = network(*crops(network.config, batch=4))
    assert isinstance(expected, TrackerOutput)
    torch.testing.assert_close(answer.output, expected)
    assert not torch.allclose(answer.masked.features, expected.features)
    assert answer.distance.shape == (4,)
    assert bool((answer.distance > 0).all())


@pytest.mark.parametrize("same_tokens", [True, False])
def test_both_paths_keep_the_same_tokens_unless_told_otherwise(same_tokens: bool) -> None:
    """A dropped cell is zero before the last norm, so after it all its features are the norm's bias."""
    network, answer = in_training(same_tokens)
    bias = network.base.rgb.norm.bias
    dropped = [(half.features[:, 4:] - bias).abs().amax(dim=2) < 1e-6 for half in (answer.output, answer.masked)]
    assert bool(dropped[0].any())
    assert torch.equal(*dropped) == same_tokens


def test_without_masking_the_distance_is_zero() -> None:
    """Nothing but masking may make the two paths differ."""
    base = rgb_tracker(elimination_layers=(1,), keep_ratio=0.5)
    network = tuned("sdstrack", base, rgb_masked=0.0, x_masked=0.0)
    network.head.freeze_statistics()
    answer = network.train()(*crops(network.config))
    assert float(answer.distance.detach().max()) < 1e-10


def test_the_loss_is_the_weighted_sum() -> None:
    network, answer = in_training(True)
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.2]]).repeat(4, 1)
    losses = network.training_loss(TrackingLoss())(answer, boxes)
    clean, masked = TrackingLoss()(answer.output, boxes), TrackingLoss()(answer.masked, boxes)
    expected = 0.6 * clean["total"] + 0.2 * masked["total"] + 0.1 * answer.distance
    torch.testing.assert_close(losses["total"], expected)
    assert set(losses) == {"total", "giou", "l1", "focal", "masked", "distance"}
    losses["total"].mean().backward()
    silent = {name for name, p in network.named_parameters() if p.requires_grad and p.grad is None}
    unused = {f"fusion.{layer}" for layer in range(4) if layer not in network.fusion_layers}
    assert {".".join(name.split(".")[:2]) for name in silent} == unused


def test_without_distillation_only_the_clean_path_runs() -> None:
    network = tuned("sdstrack", masked_weight=0.0, distillation_weight=0.0)
    network.head.freeze_statistics()
    answer = network.train()(*crops(network.config))
    assert isinstance(answer, TrackerOutput)
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.2]]).repeat(2, 1)
    losses = network.training_loss(TrackingLoss())(answer, boxes)
    torch.testing.assert_close(losses["total"], 0.6 * TrackingLoss()(answer, boxes)["total"])


def test_adapters_that_add_nothing_leave_the_rgb_tracker() -> None:
    """With zero adapters, X equal to RGB and no fusion, both streams are the RGB tracker's, and so is their mean."""
    base = rgb_tracker()
    network = SDSTrack(base, SDSTrackSection(fusion_layers=(3,)))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if network.added(name) and ".up." in name:
                parameter.zero_()
    network.fusion_layers = ()
    template, search = (torch.cat([crop[:, :3]] * 2, dim=1) for crop in crops(base.config))
    with torch.no_grad():
        found, expected = network.eval()(template, search), base(template[:, :3], search[:, :3])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layers", [(), (2, 1), (4,)])
def test_layers_that_there_are_not_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(RGBXError, match="must be increasing layer numbers from 0 to 3"):
        SDSTrack(rgb_tracker(), SDSTrackSection(fusion_layers=layers))


def test_a_fusion_layer_is_recomputed_as_a_whole() -> None:
    assert FusionLayer(16, 4).recomputed
