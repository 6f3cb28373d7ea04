"""Candidate elimination against a slow second implementation, and against published numbers computed with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tracker.errors import RGBXError
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import NetworkConfig, elimination_layers, tiny, vit_b_256, vit_b_384
from tracker.models.elimination import (
    central_attention,
    central_token,
    keep_most_attended,
    keep_ratio_at,
    kept_tokens,
    mean_of_streams,
    to_grid,
)
from tracker.models.tracker import Tracker, TrackerOutput, VitBlock, build_network, layer_norm
from tracker.train.losses import TrackingLoss

State = dict[str, Tensor]


def small(**changes: Any) -> NetworkConfig:
    settings: dict[str, Any] = {
        "embed_dim": 24,
        "depth": 4,
        "num_heads": 2,
        "patch": 8,
        "template_size": 24,
        "search_size": 40,
        "head_channels": 8,
        "cross_layers": (0, 1, 3),
        "elimination_layers": (1, 2),
        "keep_ratio": 0.6,
    }
    return NetworkConfig(**{**settings, **changes})


def lively(config: NetworkConfig, seed: int = 0) -> Tracker:
    """Return a float64 network in evaluation mode, no tensor at its initial value, so that attention is uneven."""
    torch.manual_seed(seed)
    network = build_network(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def crops(config: NetworkConfig, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = (config.template_size, config.search_size)
    template, search = (torch.randn(batch, 6, side, side, generator=generator, dtype=torch.float64) for side in sides)
    return template, search


# --- the schedule and the counts ---


@pytest.mark.parametrize(
    ("epoch", "ratio"),
    [
        (0, 1.0),
        (4, 1.0),
        (8, 0.7 + 0.15 * (1 + math.sqrt(0.5))),
        (12, 0.85),
        (16, 0.7 + 0.15 * (1 - math.sqrt(0.5))),
        (20, 0.7),
        (300, 0.7),
    ],
)
def test_warm_up_is_a_half_cosine_from_epoch_4_to_20(epoch: int, ratio: float) -> None:
    assert keep_ratio_at(epoch, 0.7) == pytest.approx(ratio, abs=1e-15)


def test_a_warm_up_of_no_length_is_a_step() -> None:
    assert [keep_ratio_at(epoch, 0.5, start=2, length=0) for epoch in range(4)] == [1.0, 1.0, 0.5, 0.5]


def test_counts_and_centers_are_ostracks() -> None:
    assert kept_tokens(256, 0.7, 3) == (180, 126, 89)
    assert kept_tokens(576, 0.7, 3) == (404, 283, 199)
    assert kept_tokens(64, 1.0, 2) == (64, 64)
    assert kept_tokens(3, 0.01, 3) == (1, 1, 1)
    assert central_token(8) == 3 * 8 + 3
    assert central_token(12) == 5 * 12 + 5
    assert central_token(7) == 3 * 7 + 3
    assert central_token(1) == 0
    assert elimination_layers(12) == (3, 6, 9)


# --- the pieces, by hand ---


def test_the_most_attended_stay_in_their_order() -> None:
    tokens = torch.tensor([[100.0, 0.0, 1.0, 2.0, 3.0, 4.0], [100.0, 0.0, 1.0, 2.0, 3.0, 4.0]])[..., None]
    attention = torch.tensor([[0.1, 0.5, 0.0, 0.3, 0.2], [0.9, 0.0, 0.8, 0.0, 0.7]])
    left, kept = keep_most_attended(tokens, None, attention, template_tokens=1, count=3)
    assert left[..., 0].tolist() == [[100.0, 1.0, 3.0, 4.0], [100.0, 0.0, 2.0, 4.0]]
    assert kept.tolist() == [[1, 3, 4], [0, 2, 4]]
    left, kept = keep_most_attended(left, kept, torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]), 1, count=2)
    assert left[..., 0].tolist() == [[100.0, 3.0, 4.0], [100.0, 0.0, 2.0]]
    assert kept.tolist() == [[3, 4], [0, 2]]
    assert to_grid(left, kept, 1, 3)[..., 0].tolist() == [
        [100.0, 0, 0, 0, 3.0, 4.0, 0, 0, 0, 0],
        [100.0, 0.0, 0, 2.0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_cell_that_one_stream_dropped_takes_the_others_features() -> None:
    rgb = torch.tensor([[10.0, 1.0, 2.0]])[..., None]  # a template token, cells 0 and 1
    x = torch.tensor([[20.0, 5.0, 6.0]])[..., None]  # a template token, cells 1 and 3
    kept = (torch.tensor([[0, 1]]), torch.tensor([[1, 3]]))
    mean = mean_of_streams((rgb, x), kept, template_tokens=1, cells=2)
    assert mean[..., 0].tolist() == [[15.0, 1.0, 3.5, 0.0, 6.0]]


@given(st.integers(1, 4), st.integers(1, 3), st.data())
@settings(max_examples=25, deadline=None)
def test_the_grid_holds_what_was_kept_and_zeros(cells: int, template: int, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.integers(0, cells * cells - 1)).map(sorted))
    features = torch.arange(1.0, template + len(kept) + 1)[None, :, None]
    grid = to_grid(features, torch.tensor([kept], dtype=torch.int64), template, cells)[0, :, 0].tolist()
    assert grid[:template] == features[0, :template, 0].tolist()
    for cell in range(cells * cells):
        expected = float(template + kept.index(cell) + 1) if cell in kept else 0.0
        assert grid[template + cell] == expected


# --- whole networks against a slow second implementation ---


def slow_block(x: Tensor, state: State, name: str, heads: int) -> tuple[Tensor, Tensor]:
    """Return ``x (N, D)`` after attention and after the whole block, without elimination, and all of the attention."""
    width = x.shape[1] // heads
    normed = F.layer_norm(x, x.shape[1:], state[f"{name}.norm1.weight"], state[f"{name}.norm1.bias"], 1e-6)
    qkv = normed @ state[f"{name}.attn.qkv.weight"].T + state[f"{name}.attn.qkv.bias"]
    queries, keys, values = qkv.split(x.shape[1], dim=1)
    attention, mixed = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        similarity = queries[:, part] @ keys[:, part].T / math.sqrt(width)
        attention.append(similarity.exp() / similarity.exp().sum(dim=1, keepdim=True))
        mixed.append(attention[-1] @ values[:, part])
    attended = torch.cat(mixed, dim=1) @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"]
    return x + attended, torch.stack(attention).mean(dim=0)


def slow_mlp(x: Tensor, state: State, name: str) -> Tensor:
    normed = F.layer_norm(x, x.shape[1:], state[f"{name}.norm2.weight"], state[f"{name}.norm2.bias"], 1e-6)
    hidden = F.gelu(normed @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"])
    return x + hidden @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]


def slow_features(template: Tensor, search: Tensor, state: State, config: NetworkConfig) -> Tensor:
    """Return the features of one sample, ``(Nz + S * S, D)``.

    Tokens are in dicts by their cell, ranked with sorted().
    """
    template_tokens, cells = config.template_cells**2, config.search_cells**2
    row, column = (config.template_cells - 1) // 2, (config.template_cells - 1) // 2
    center = row * config.template_cells + column
    streams = ("rgb", "x") if config.kind == "two_stream" else ("rgb",)
    tokens: dict[str, Tensor] = {}
    for stream, channels in zip(streams, (slice(0, 3), slice(3, 6)), strict=False):
        weight, bias = state[f"{stream}.patch_embed.proj.weight"], state[f"{stream}.patch_embed.proj.bias"]
        parts = []
        for image, grid in ((template, "template"), (search, "search")):
            patches = F.conv2d(image[None, channels], weight, bias, stride=config.patch)[0]
            parts.append(patches.flatten(1).T + state[f"positions.{grid}"][0])
        tokens[stream] = torch.cat(parts)
    left = {stream: list(range(cells)) for stream in streams}
    for layer in range(config.depth):
        for stream in streams:
            name = f"{stream}.blocks.{layer}"
            x, attention = slow_block(tokens[stream], state, name, config.num_heads)
            if layer in config.elimination_layers:
                ranked = sorted(range(len(left[stream])), key=lambda i: -float(attention[center, template_tokens + i]))
                best = ranked[: math.ceil(config.keep_ratio * len(ranked))]  # unlike the network, in order of rank
                x = torch.cat([x[:template_tokens], x[[template_tokens + i for i in best]]])
                left[stream] = [left[stream][i] for i in best]
            tokens[stream] = slow_mlp(x, state, name)
        if config.kind == "two_stream" and layer in config.cross:
            name = f"cross.{config.cross.index(layer)}"
            both, _ = slow_block(torch.cat([tokens["rgb"], tokens["x"]]), state, name, config.num_heads)
            both = slow_mlp(both, state, name)
            tokens["rgb"], tokens["x"] = both[: len(tokens["rgb"])], both[len(tokens["rgb"]) :]
    normed = {
        s: F.layer_norm(t, t.shape[1:], state[f"{s}.norm.weight"], state[f"{s}.norm.bias"], 1e-6)
        for s, t in tokens.items()
    }
    features = torch.zeros(template_tokens + cells, config.embed_dim, dtype=torch.float64)
    features[:template_tokens] = torch.stack([normed[s][:template_tokens] for s in streams]).mean(dim=0)
    for cell in range(cells):
        there = [normed[s][template_tokens + left[s].index(cell)] for s in streams if cell in left[s]]
        if there:
            features[template_tokens + cell] = torch.stack(there).mean(dim=0)
    return features


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("ratio", [0.6, 0.3, 0.05])
def test_networks_equal_the_slow_implementation(kind: str, ratio: float) -> None:
    config = small(kind=kind, keep_ratio=ratio)
    network = lively(config)
    template, search = crops(config)
    with torch.no_grad():
        output: TrackerOutput = network(template, search)
        state = network.state_dict()
        for i in range(len(template)):
            expected = slow_features(template[i], search[i], state, config)
            torch.testing.assert_close(output.features[i], expected, rtol=1e-9, atol=1e-9)
    dropped = (output.features[:, config.template_cells**2 :] == 0).all(dim=2).sum(dim=1)
    left = kept_tokens(config.search_cells**2, ratio, 2)[-1]
    streams = 2 if kind == "two_stream" else 1
    assert bool((dropped >= config.search_cells**2 - streams * left).all())
    assert bool((dropped <= config.search_cells**2 - left).all())


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
def test_keeping_everything_is_no_elimination_to_the_bit(kind: str) -> None:
    config = small(kind=kind)
    network = lively(config).float()
    network.set_keep_ratio(1.0)
    plain = build_network(config.replace(elimination_layers=(), keep_ratio=1.0)).eval()
    plain.load_state_dict(network.state_dict())
    images = [image.float() for image in crops(config)]
    with torch.no_grad():
        for mine, theirs in zip(network(*images), plain(*images), strict=True):
            assert torch.equal(mine, theirs)
        network.set_keep_ratio(config.keep_ratio)
        assert not torch.equal(network(*images).features, plain(*images).features)


def test_the_ratio_may_move_and_the_configuration_stays() -> None:
    config = small(kind="single_stream")
    network = lively(config)
    template, search = crops(config, batch=1)

    def left() -> int:
        with torch.no_grad():
            features = network(template, search).features[0, config.template_cells**2 :]
        return int((features != 0).any(dim=1).sum())

    assert left() == math.ceil(0.6 * math.ceil(0.6 * 25))
    network.set_keep_ratio(0.8)
    assert left() == 16
    assert network.config == config
    for ratio in (0.0, 1.5, -0.1, math.nan):
        with pytest.raises(RGBXError, match=r"not in \(0, 1\]"):
            network.set_keep_ratio(ratio)
    assert left() == 16


def test_a_two_stream_network_inherits_elimination() -> None:
    rgb = build_network(small(kind="single_stream"))
    network = initialize_two_stream(rgb)
    assert network.config.elimination_layers == (1, 2)
    assert network.kept_tokens == rgb.kept_tokens == (15, 9)


def test_every_trained_weight_gets_a_gradient_and_drop_path_is_drawn() -> None:
    config = small(drop_path=0.3)
    network = lively(config).train()
    network.head.freeze_statistics()
    boxes = torch.tensor([[0.4, 0.6, 0.3, 0.2]], dtype=torch.float64).repeat(8, 1)

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return TrackingLoss()(network(*crops(config, batch=8)), boxes)["total"].mean()

    first = loss(0)
    first.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert silent == []
    assert torch.equal(loss(0), first)
    assert not torch.equal(loss(1), first)


@pytest.mark.parametrize("make", [vit_b_256, vit_b_384])
def test_elimination_adds_no_weights(make: Any) -> None:
    with torch.device("meta"):
        plain = build_network(make())
        eliminating = build_network(make(elimination_layers=(3, 6, 9), keep_ratio=0.7))
    assert {n: t.shape for n, t in plain.state_dict().items()} == {
        n: t.shape for n, t in eliminating.state_dict().items()
    }


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (vit_b_256(kind="single_stream", elimination_layers=(3, 6, 9), keep_ratio=0.7), 21.5),
        (vit_b_384(kind="single_stream", elimination_layers=(3, 6, 9), keep_ratio=0.7), 48.3),
    ],
)
def test_multiplications_are_as_many_as_published(config: NetworkConfig, published: float) -> None:
    """OSTrack's table has 21.5 G and 48.3 G. Like its counter, this leaves out the products of the attention itself."""
    with torch.device("meta"):
        network = build_network(config).eval()
        template, search = (torch.empty(1, 3, side, side) for side in (config.template_size, config.search_size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(template, search)
    counted = counter.get_flop_counts()["Global"]
    of_weights = (torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.convolution)
    assert round(sum(counted.get(operator, 0) for operator in of_weights) / 2e9, 1) == published


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"elimination_layers": (2, 1)}, "elimination_layers .* increasing"),
        ({"elimination_layers": (4,)}, "from 0 to 3"),
        ({"elimination_layers": 3}, "layer numbers"),
        ({"keep_ratio": 0.0}, r"not in \(0, 1\]"),
        ({"keep_ratio": 1.2}, r"not in \(0, 1\]"),
        ({"keep_ratio": "0.7"}, "must be a number"),
        ({"elimination_layers": ()}, r"drops nothing .* \(1, 2, 3\)"),
    ],
)
def test_senseless_elimination_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RGBXError, match=sentence):
        small(**change)


def test_configurations_with_elimination_survive_plain_values() -> None:
    config = tiny(elimination_layers=elimination_layers(6), keep_ratio=0.7)
    assert config.elimination_layers == (1, 3, 4)
    assert NetworkConfig.from_dict(config.to_dict()) == config


# --- published numbers: SDSTrack eliminates in each stream, and its answers were computed with its own code ---


class SDSTrack:
    """SDSTrack's network, written out for its weights.

    Only what ranks, drops and brings back tokens is the project's.
    """

    HEADS, TEMPLATE, CELLS = 3, 16, 8

    def __init__(self, state: State) -> None:
        self.state = state

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def adapter(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.D_fc1")), f"{name}.D_fc2")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    def attention(self, x: Tensor, name: str, blocked: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, dim = x.shape
        qkv = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.reshape(batch, length, 3, self.HEADS, -1).permute(2, 0, 3, 1, 4)
        similarity = q @ k.transpose(2, 3) * (dim // self.HEADS) ** -0.5
        if blocked is not None:
            similarity = similarity.masked_fill(blocked, -math.inf)
        mixed = (similarity.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, dim)
        return self.linear(mixed, f"{name}.attn.proj"), q, k

    def tokens(self, template: Tensor, search: Tensor, embed: str) -> Tensor:
        def patches(image: Tensor) -> Tensor:
            name = f"backbone.{embed}.proj"
            cut = F.conv2d(image, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=16)
            return cut.flatten(2).transpose(1, 2)

        z = patches(template) + self.state["backbone.pos_embed_z"]
        return torch.cat([z, patches(search) + self.state["backbone.pos_embed_x"]], dim=1)

    def rgb_layer(self, layer: int, tokens: Tensor, kept: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
        """Run OSTrack's block untouched: it is the project's own, with these weights."""
        block = VitBlock(48, self.HEADS, qkv_bias=True, norm_layer=layer_norm)
        prefix = f"backbone.blocks.{layer}."
        own = {n.removeprefix(prefix): t for n, t in self.state.items() if n.startswith(prefix) and "Adapter" not in n}
        block.load_state_dict(own, strict=True)
        left, kept = block.eval()(tokens, kept, 4, count)
        return left, kept

    def x_layer(self, layer: int, tokens: Tensor, kept: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
        name = f"backbone.blocks.{layer}"
        attended, q, k = self.attention(tokens, name)
        tokens = tokens + attended + self.adapter(attended, f"{name}.Space_X_DTE_Adapter")
        if count < tokens.shape[1] - self.TEMPLATE:
            attention = central_attention(q, k, central_token(4), self.TEMPLATE)
            tokens, kept = keep_most_attended(tokens, kept, attention, self.TEMPLATE, count)
        normed = self.norm(tokens, f"{name}.norm2")
        return tokens + self.mlp(normed, name) + 0.5 * self.adapter(normed, f"{name}.MLP_X_DTE_Adapter"), kept

    def fusion(self, layer: int, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        name, half = f"backbone.blocks.{layer}", rgb.shape[1]
        same = torch.ones(half, half, dtype=torch.bool)
        both = torch.cat([rgb, x], dim=1)
        attended, _, _ = self.attention(both, name, torch.block_diag(same, same))
        both = both + attended + self.adapter(attended, f"{name}.Space_X_X_DTE_Adapter")
        normed = self.norm(both, f"{name}.norm2")
        both = both + self.mlp(normed, name) + 0.5 * self.adapter(normed, f"{name}.MLP_X_X_DTE_Adapter")
        return both[:, :half], both[:, half:]

    def branch(self, features: Tensor, name: str) -> Tensor:
        for i in range(1, 5):
            layer = f"box_head.conv{i}_{name}"
            features = F.conv2d(features, self.state[f"{layer}.0.weight"], self.state[f"{layer}.0.bias"], padding=1)
            statistics = (self.state[f"{layer}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
            features = F.batch_norm(features, *statistics).relu()
        last = f"box_head.conv5_{name}"
        return F.conv2d(features, self.state[f"{last}.weight"], self.state[f"{last}.bias"])

    def __call__(self, template: Tensor, search: Tensor, ratio: float) -> dict[str, Tensor]:
        counts = iter(kept_tokens(self.CELLS**2, ratio, 3))
        count = self.CELLS**2
        rgb = self.tokens(template[:, :3], search[:, :3], "patch_embed")
        x = self.tokens(template[:, 3:], search[:, 3:], "patch_embed_multimodal")
        rgb_kept = x_kept = None
        for layer in range(12):
            count = next(counts) if layer in (3, 6, 9) else count
            rgb, rgb_kept = self.rgb_layer(layer, rgb, rgb_kept, count)
            x, x_kept = self.x_layer(layer, x, x_kept, count)
            if layer in (3, 6, 9, 11):
                rgb, x = self.fusion(layer, rgb, x)
        whole = [to_grid(tokens, kept, self.TEMPLATE, self.CELLS) for tokens, kept in ((rgb, rgb_kept), (x, x_kept))]
        features = self.norm((whole[0] + whole[1]) / 2, "backbone.norm")[:, self.TEMPLATE :]
        grid = features.transpose(1, 2).reshape(-1, 48, self.CELLS, self.CELLS)
        return {
            "score_map": self.branch(grid, "ctr").sigmoid().clamp(1e-4, 1 - 1e-4),
            "size_map": self.branch(grid, "size").sigmoid().clamp(1e-4, 1 - 1e-4),
            "offset_map": self.branch(grid, "offset"),
        }


@pytest.mark.parametrize(("ratio", "prefix"), [(1.0, "keep1"), (0.7, "keep07")])
def test_elimination_answers_as_published(shared_data: Path, ratio: float, prefix: str) -> None:
    folder = shared_data / "parity"
    if not (folder / "sdstrack_expected.safetensors").is_file():
        pytest.skip(f"parity weights are not in {folder}; set RGBX_SHARED to the folder that holds parity/")
    expected = load_file(folder / "sdstrack_expected.safetensors")
    assert expected["template_mask"].nonzero().tolist() == [[0, central_token(4)], [1, central_token(4)]]
    with torch.no_grad():
        output = SDSTrack(load_file(folder / "sdstrack_format.safetensors"))(
            expected["template"], expected["search"], ratio
        )
    for name, maps in output.items():
        assert float((maps - expected[f"{prefix}_{name}"]).abs().max()) < 1e-5, name
