"""The networks agree with a forward pass written out with einsum in float64, and do what they promise."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tracker.errors import RGBXError
from tracker.models.center_head import decode_boxes
from tracker.models.checkpoints.initialize import initialize_two_stream, stream_mapping
from tracker.models.config import PRESETS, NetworkConfig, evenly_spaced_layers, preset, tiny, vit_b_256
from tracker.models.groups import GroupSettings, parameter_groups
from tracker.models.tracker import Tracker, TrackerOutput, build_network
from tracker.train.losses import TrackingLoss

State = dict[str, Tensor]

SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 2,
    "patch": 8,
    "template_size": 16,
    "search_size": 32,
    "head_channels": 16,
    "cross_layers": (0, 2),
}


def small(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**{**SMALL, **changes})


def lively_network(config: NetworkConfig, seed: int = 0) -> Tracker:
    """Return a float64 network whose every tensor, norms and statistics too, is away from its initial value."""
    torch.manual_seed(seed)
    network = build_network(config).double().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn_like(tensor))
    return network


def crops(config: NetworkConfig, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = (config.template_size, config.search_size)
    template, search = (torch.randn(batch, 6, side, side, generator=generator, dtype=torch.float64) for side in sides)
    return template, search


# --- the same network, written out ---


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    spread = (centered.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return centered / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def block(x: Tensor, state: State, name: str, heads: int) -> Tensor:
    normed = layer_norm(x, state, f"{name}.norm1")
    qkv = torch.einsum("bnd,ed->bne", normed, state[f"{name}.attn.qkv.weight"]) + state[f"{name}.attn.qkv.bias"]
    queries, keys, values = qkv.chunk(3, dim=-1)
    width = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        similarity = torch.einsum("bnd,bmd->bnm", queries[..., part], keys[..., part]) / math.sqrt(width)
        weights = similarity.exp() / similarity.exp().sum(dim=-1, keepdim=True)
        mixed.append(torch.einsum("bnm,bmd->bnd", weights, values[..., part]))
    attended = torch.cat(mixed, dim=-1)
    x = x + torch.einsum("bnd,ed->bne", attended, state[f"{name}.attn.proj.weight"]) + state[f"{name}.attn.proj.bias"]
    hidden = torch.einsum("bnd,ed->bne", layer_norm(x, state, f"{name}.norm2"), state[f"{name}.mlp.fc1.weight"])
    hidden = hidden + state[f"{name}.mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + torch.einsum("bnd,ed->bne", hidden, state[f"{name}.mlp.fc2.weight"]) + state[f"{name}.mlp.fc2.bias"]


def patches(images: Tensor, state: State, stream: str, patch: int) -> Tensor:
    """Return tokens in reading order, with every patch flattened (channel, row, column) and projected."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    weight = state[f"{stream}.patch_embed.proj.weight"]
    tokens = torch.einsum("bcipjq,dcpq->bijd", cut, weight) + state[f"{stream}.patch_embed.proj.bias"]
    return tokens.flatten(1, 2)


def embed(template: Tensor, search: Tensor, state: State, stream: str, config: NetworkConfig) -> Tensor:
    z = patches(template, state, stream, config.patch) + state["positions.template"]
    x = patches(search, state, stream, config.patch) + state["positions.search"]
    if config.temporal:
        z = z + state["positions.template_temporal"]
        x = x + state["positions.search_temporal"]
    return torch.cat([z, x], dim=1)


def branch(features: Tensor, state: State, name: str) -> Tensor:
    for i in range(4):
        layer = f"{name}.{i}"
        convolved = F.conv2d(features, state[f"{layer}.conv.weight"], state[f"{layer}.conv.bias"], padding=1)
        mean, var = state[f"{layer}.norm.running_mean"], state[f"{layer}.norm.running_var"]
        scale = state[f"{layer}.norm.weight"] / (var + 1e-5).sqrt()
        shift = state[f"{layer}.norm.bias"] - mean * scale
        features = (convolved * scale[:, None, None] + shift[:, None, None]).clamp_min(0)
    return torch.einsum("bchw,oc->bohw", features, state[f"{name}.4.weight"][..., 0, 0]) + state[
        f"{name}.4.bias"
    ].reshape(1, -1, 1, 1)


def written_out(template: Tensor, search: Tensor, state: State, config: NetworkConfig) -> TrackerOutput:
    rgb = embed(template[:, :3], search[:, :3], state, "rgb", config)
    if config.kind == "single_stream":
        for layer in range(config.depth):
            rgb = block(rgb, state, f"rgb.blocks.{layer}", config.num_heads)
        features = layer_norm(rgb, state, "rgb.norm")
    else:
        x = embed(template[:, 3:], search[:, 3:], state, "x", config)
        for layer in range(config.depth):
            rgb = block(rgb, state, f"rgb.blocks.{layer}", config.num_heads)
            x = block(x, state, f"x.blocks.{layer}", config.num_heads)
            if layer in config.cross:
                both = torch.cat([rgb, x], dim=1)
                both = block(both, state, f"cross.{config.cross.index(layer)}", config.num_heads)
                rgb, x = both[:, : rgb.shape[1]], both[:, rgb.shape[1] :]
        features = (layer_norm(rgb, state, "rgb.norm") + layer_norm(x, state, "x.norm")) / 2
    cells = config.search_cells
    grid = features[:, config.template_cells**2 :].reshape(len(features), cells, cells, -1).permute(0, 3, 1, 2)
    score = (1 / (1 + (-branch(grid, state, "head.score")).exp())).clamp(1e-4, 1 - 1e-4)
    size = (1 / (1 + (-branch(grid, state, "head.size")).exp())).clamp(1e-4, 1 - 1e-4)
    offset = branch(grid, state, "head.offset")
    boxes = []
    for i in range(len(features)):
        values = score[i, 0].flatten().tolist()
        iy, ix = divmod(values.index(max(values)), cells)
        ox, oy = offset[i, :, iy, ix].tolist()
        w, h = size[i, :, iy, ix].tolist()
        boxes.append([[(ix + ox) / cells, (iy + oy) / cells, w, h]])
    return TrackerOutput(score, size, offset, torch.tensor(boxes, dtype=torch.float64), features)


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("temporal", [False, True])
def test_forward_equals_the_one_written_out(kind: str, temporal: bool) -> None:
    config = small(kind=kind, temporal=temporal)
    network = lively_network(config)
    template, search = crops(config)
    with torch.no_grad():
        output = network(template, search)
    expected = written_out(template, search, network.state_dict(), config)
    for name, mine, theirs in zip(TrackerOutput._fields, output, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


HEADS_AND_WIDTHS = st.tuples(st.integers(1, 3), st.integers(1, 5)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(
    HEADS_AND_WIDTHS,
    st.integers(1, 4),
    st.sampled_from([4, 8]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from(["single_stream", "two_stream"]),
)
@settings(max_examples=15, deadline=None)
def test_any_width_and_depth_equals_the_one_written_out(
    width: tuple[int, int], depth: int, patch: int, template: int, search: int, kind: str
) -> None:
    config = NetworkConfig(
        kind=kind,
        embed_dim=width[1],
        depth=depth,
        num_heads=width[0],
        patch=patch,
        template_size=patch * template,
        search_size=patch * search,
        head_channels=8,
    )
    network = lively_network(config)
    images = crops(config, batch=1)
    with torch.no_grad():
        output = network(*images)
    expected = written_out(*images, network.state_dict(), config)
    assert output.score_map.shape == (1, 1, search, search)
    torch.testing.assert_close(output.features, expected.features, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(output.score_map, expected.score_map, rtol=1e-7, atol=1e-7)


def test_decoding_reads_the_best_cell() -> None:
    score = torch.zeros(2, 1, 4, 4)
    size, offset = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    score[0, 0, 1, 3] = 1.0  # row 1, column 3
    score[1, 0, 2, 0] = 1.0
    size[0, :, 1, 3] = torch.tensor([0.25, 0.5])
    offset[0, :, 1, 3] = torch.tensor([0.5, -0.25])
    size[1, :, 2, 0] = torch.tensor([0.125, 0.75])
    offset[1, :, 2, 0] = torch.tensor([0.0, 1.0])
    expected = torch.tensor([[3.5 / 4, 0.75 / 4, 0.25, 0.5], [0.0, 3 / 4, 0.125, 0.75]])
    assert torch.equal(decode_boxes(score, size, offset), expected)


def test_probabilities_stay_off_zero_and_one() -> None:
    head = build_network(small()).head.eval()
    for logit, expected in ((-100.0, 1e-4), (100.0, 1 - 1e-4)):
        for last in (head.score[-1], head.size[-1]):
            nn.init.constant_(last.bias, logit)
        maps = head(torch.zeros(1, 24, 4, 4))
        assert torch.equal(maps.score, torch.full((1, 1, 4, 4), expected))
        assert torch.equal(maps.size, torch.full((1, 2, 4, 4), expected))


def test_a_single_stream_reads_the_first_three_channels_only() -> None:
    config = small(kind="single_stream")
    network = lively_network(config)
    template, search = crops(config)
    with torch.no_grad():
        six, three = network(template, search), network(template[:, :3], search[:, :3])
        blank = network(template, torch.cat([search[:, :3], torch.zeros_like(search[:, 3:])], dim=1))
    for a, b, c in zip(six, three, blank, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
def test_answers_do_not_depend_on_how_the_batch_is_split(kind: str) -> None:
    config = small(kind=kind)
    network = lively_network(config)
    template, search = crops(config, batch=5)
    with torch.no_grad():
        whole = network(template, search)
        parts = [network(template[a:b], search[a:b]) for a, b in ((0, 1), (1, 3), (3, 5))]
    for i, name in enumerate(TrackerOutput._fields):
        joined = torch.cat([part[i] for part in parts])
        torch.testing.assert_close(whole[i], joined, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_drop_path_is_drawn_from_the_seed_and_absent_in_evaluation() -> None:
    config = small(drop_path=0.5)
    template, search = crops(config, batch=8)
    network = lively_network(config).train()
    network.head.freeze_statistics()

    def features(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            output: TrackerOutput = network(template, search)
        return output.features

    first, again, other = features(3), features(3), features(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    network.eval()
    assert torch.equal(features(3), features(4))


def test_drop_path_rises_linearly_and_cross_blocks_take_their_layers_rate() -> None:
    network = build_network(small(depth=5, drop_path=0.2, cross_layers=(1, 4)))

    def rate(module: Any) -> float:
        return float(getattr(module.drop_path1, "drop_prob", 0.0))

    assert [rate(b) for b in network.rgb.blocks] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert [rate(b) for b in network.x.blocks] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert [rate(b) for b in network.cross] == pytest.approx([0.05, 0.2])


def test_two_stream_vit_b_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = build_network(vit_b_256())
    groups = parameter_groups(network)
    trained = sum(p.numel() for group in groups for _, p in group["params"])
    total = sum(p.numel() for p in network.parameters())
    unused_class_token = 768
    assert sum(p.numel() for p in network.rgb.blocks[0].parameters()) == 7_087_872
    assert sum(p.numel() for p in network.rgb.patch_embed.parameters()) == 590_592
    assert sum(p.numel() for p in network.head.parameters()) == 6_474_117
    assert round(trained / 1e6, 2) == 199.64
    assert round((total + unused_class_token) / 1e6, 2) == 206.37


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_have_as_many_parameters_as_their_sizes_say(name: str) -> None:
    """By hand: 12 d^2 + 13 d a block, (3 p^2 + 1) d an embedding, d a position, and 9 weights a convolution."""
    config = preset(name)
    with torch.device("meta"):
        network = build_network(config)
    d, channels = config.embed_dim, config.head_channels
    block = 12 * d**2 + 13 * d
    embedding = (3 * config.patch**2 + 1) * d
    positions = (config.template_cells**2 + config.search_cells**2 + 2 * config.temporal) * d
    widths = [d, channels, channels // 2, channels // 4, channels // 8]
    # weights, bias, and the scale and shift of the batch normalization
    branch = sum(9 * a * b + 3 * b for a, b in pairwise(widths))
    head = 3 * branch + (1 + 2 + 2) * (widths[-1] + 1)
    streams = 2 * (config.depth * block + embedding + 2 * d)
    trained = streams + len(config.cross) * block
    assert sum(p.numel() for p in network.parameters()) == trained + positions + head
    assert sum(p.numel() for group in parameter_groups(network) for _, p in group["params"]) == trained


@pytest.mark.parametrize(
    ("names", "width", "heads"),
    [
        (("vit_b_256", "vit_b_384", "droptrack_b_384"), 768, 12),
        (("vit_s_256", "vit_s_384"), 384, 6),
        (("vit_t_256", "vit_t_384"), 192, 3),
    ],
)
def test_presets_are_the_vits_of_the_literature(names: tuple[str, ...], width: int, heads: int) -> None:
    for name in names:
        config = preset(name)
        sizes = (192, 384) if name.endswith("384") else (128, 256)
        assert (config.embed_dim, config.num_heads, config.depth, config.patch) == (width, heads, 12, 16)
        assert (config.template_size, config.search_size) == sizes
        assert config.temporal == name.startswith("droptrack")
        assert (config.keep_ratio, config.elimination_layers) == (1.0, ())


def test_the_tiny_trackers_weights_can_ship() -> None:
    network = build_network(tiny(kind="single_stream"))
    assert sum(t.numel() * t.element_size() for t in network.state_dict().values()) < 8_000_000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "three_stream"}, "two_stream, single_stream"),
        ({"embed_dim": 25}, "does not divide by num_heads"),
        ({"search_size": 30}, "does not divide by the patch"),
        ({"head_channels": 12}, "does not divide by 8"),
        ({"depth": 0}, "whole number of at least 1"),
        ({"cross_layers": (2, 0)}, "increasing"),
        ({"cross_layers": (0, 3)}, "from 0 to 2"),
        ({"cross_layers": ("0",)}, "layer numbers"),
        ({"cross_layers": 3}, "layer numbers"),
        ({"drop_path": "0.1"}, "must be a number"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RGBXError, match=sentence):
        small(**change)


def test_configurations_survive_plain_values_and_refuse_unknown_ones() -> None:
    config = tiny(temporal=True, drop_path=0.1)
    assert NetworkConfig.from_dict(config.to_dict()) == config
    with pytest.raises(RGBXError, match="embed_dimension"):
        NetworkConfig.from_dict({"embed_dimension": 3})
    with pytest.raises(RGBXError, match="vit_b_256"):
        preset("vit_g")


def test_cross_layers_spread_evenly() -> None:
    assert evenly_spaced_layers(12, 4) == (2, 5, 8, 11)
    assert evenly_spaced_layers(6, 3) == (1, 3, 5)
    assert vit_b_256().cross == (2, 5, 8, 11)
    assert vit_b_256(depth=6).cross == (2, 5)
    assert tiny().cross == (1, 3, 5)


@pytest.mark.parametrize(
    ("template", "search"),
    [((2, 6, 16, 16), (2, 6, 16, 16)), ((2, 3, 16, 16), (2, 6, 32, 32)), ((1, 6, 16, 16), (2, 6, 32, 32))],
)
def test_crops_of_another_shape_are_refused(template: tuple[int, ...], search: tuple[int, ...]) -> None:
    with pytest.raises(RGBXError, match=r"network takes|one for each"):
        build_network(small())(torch.zeros(template), torch.zeros(search))


# --- from one stream to two ---


def test_initialization_copies_where_the_mapping_says_and_shares_nothing() -> None:
    rgb = lively_network(small(kind="single_stream")).float()
    network = initialize_two_stream(rgb)
    single, double = rgb.state_dict(), network.state_dict()
    for name, tensor in single.items():
        if name.startswith("rgb."):
            assert torch.equal(double[name], tensor)
            assert torch.equal(double["x." + name.removeprefix("rgb.")], tensor)
        else:
            assert torch.equal(double[name], tensor)
    for index, layer in enumerate((0, 2)):
        prefix = f"cross.{index}."
        names = [name for name in double if name.startswith(prefix)]
        assert len(names) == 12
        for name in names:
            assert torch.equal(double[name], single[f"rgb.blocks.{layer}." + name.removeprefix(prefix)])
    addresses = [tensor.data_ptr() for tensor in [*single.values(), *double.values()]]
    assert len(set(addresses)) == len(addresses)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_mapping_reaches_every_parameter_of_the_two_stream_network_once() -> None:
    for config in (small(), small(temporal=True), tiny(), vit_b_256(depth=6)):
        with torch.device("meta"):
            single = build_network(config.replace(kind="single_stream"))
            double = build_network(config)
        where = stream_mapping(config)
        reached = [target for name, _ in single.named_parameters() for target in where(name)]
        assert sorted(reached) == sorted(name for name, _ in double.named_parameters())


def test_an_rgb_tracker_of_another_shape_is_refused_by_name() -> None:
    rgb = build_network(small(kind="single_stream"))
    with pytest.raises(RGBXError, match=r"lacks rgb\.blocks\.3"):
        initialize_two_stream(rgb, small(depth=4))
    with pytest.raises(RGBXError, match="attention heads"):
        initialize_two_stream(rgb, small(num_heads=3))
    with pytest.raises(RGBXError, match="configuration"):
        initialize_two_stream(rgb.state_dict())
    with pytest.raises(RGBXError, match="two_stream"):
        initialize_two_stream(rgb, rgb.config)


# --- parameter groups ---


def test_groups_have_the_published_rates_and_members() -> None:
    network = build_network(small(temporal=True))
    groups = {group["name"]: group for group in parameter_groups(network)}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "norms": 1e-6,
        "embed_rgb": 5e-5,
        "embed_x": 5e-5,
        "blocks_rgb": 1e-4,
        "blocks_x": 1e-4,
        "cross": 5e-5,
    }
    names = {name: [n for n, _ in group["params"]] for name, group in groups.items()}
    assert names["norms"] == ["rgb.norm.weight", "rgb.norm.bias", "x.norm.weight", "x.norm.bias"]
    assert names["embed_x"] == ["x.patch_embed.proj.weight", "x.patch_embed.proj.bias"]
    assert all(name.startswith("x.blocks.") for name in names["blocks_x"])
    assert len(names["blocks_rgb"]) == len(names["blocks_x"]) == 3 * 12
    assert len(names["cross"]) == 2 * 12
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {name for members in names.values() for name in members}
    assert not any(name.startswith(("head.", "positions.")) for name in trained)


def test_torch_optimizers_take_the_groups_and_keep_the_names() -> None:
    network = build_network(small(kind="single_stream"))
    optimizer = torch.optim.AdamW(parameter_groups(network, GroupSettings.uniform(1e-3)))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}


def test_a_step_moves_what_is_trained_and_nothing_else() -> None:
    config = small()
    network = build_network(config).train()
    optimizer = torch.optim.AdamW(parameter_groups(network))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    template, search = (tensor.float() for tensor in crops(config, batch=3))
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(3, 1)
    TrackingLoss()(network(template, search), boxes)["total"].mean().backward()
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_a_frozen_head_makes_the_loss_of_a_sample_its_own() -> None:
    config = small()
    network = lively_network(config)
    template, search = crops(config, batch=4)
    boxes = torch.tensor([[0.4, 0.6, 0.3, 0.2]], dtype=torch.float64).repeat(4, 1)

    def losses(count: int) -> Tensor:
        return TrackingLoss()(network(template[:count], search[:count]), boxes[:count])["total"].detach()

    parameter_groups(network, GroupSettings(head=1e-4))
    network.train()
    assert not torch.allclose(losses(4)[:2], losses(2))
    parameter_groups(network)
    network.train()
    torch.testing.assert_close(losses(4)[:2], losses(2), rtol=1e-10, atol=1e-12)
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert network.rgb.training


def test_rates_scale_and_senseless_ones_are_refused() -> None:
    assert GroupSettings().scaled(10.0).blocks_rgb == pytest.approx(1e-3)
    assert GroupSettings().scaled(10.0).head is None
    with pytest.raises(RGBXError, match="cross"):
        GroupSettings(cross=-1.0)
    nothing = GroupSettings(**dict.fromkeys(("norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross")))
    with pytest.raises(RGBXError, match="frozen"):
        parameter_groups(build_network(small()), nothing)
