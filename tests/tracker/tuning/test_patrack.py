"""PATrack around a whole network: its layers are written out, its parameters counted, and its refusals tried."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker.config import PATrackSection
from tracker.errors import RGBXError
from tracker.models.config import preset
from tracker.models.tracker import Tracker, build_network
from tracker.train.activations import recompute_blocks
from tracker.tuning.patrack import PATrack


def rgb_tracker(**changes: Any) -> Tracker:
    """Return an RGB tracker of depth 4, whose default meetings are at 1, 2 and 3."""
    torch.manual_seed(0)
    settings = {"depth": 4, "embed_dim": 16, "num_heads": 2, "head_channels": 8, "patch": 8, **changes}
    return build_network(preset("tiny", kind="single_stream", template_size=16, search_size=32, **settings)).eval()


def tuned(settings: PATrackSection | None = None, **changes: Any) -> PATrack:
    """Return a tuned tracker in float64, in which each adapter changes the answer."""
    network = PATrack(rgb_tracker(**changes), settings or PATrackSection()).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("base.") or "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def crops(template: int = 16, search: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(
        torch.randn(batch, 6, side, side, generator=generator, dtype=torch.float64) for side in (template, search)
    )  # type: ignore[return-value]


def written_out(network: PATrack, template: Tensor, search: Tensor, source: str, meetings: set[int]) -> Tensor:
    """Return the last features, one stream after the other as the equations have them."""
    base = network.base
    z = base.config.template_cells**2
    rgb, x = (base.tokens(base.rgb, template[:, half], search[:, half]) for half in (slice(0, 3), slice(3, 6)))

    def plain(tokens: Tensor) -> Tensor:
        return (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    def added(adapter: Any, norm: Any, index: int) -> tuple[Tensor, Tensor]:
        if index in meetings:
            to_rgb, to_x = adapter.fusion(plain(rgb), plain(x))
            return norm(to_rgb), norm(to_x)
        own = adapter.mixer(norm(rgb)), adapter.mixer(norm(x))
        return own if source == "own" else own[::-1]

    for index, block in enumerate(base.rgb.blocks):
        layer = network.layers[index]
        to_rgb, to_x = added(layer.attention, block.norm1, index)
        rgb, x = rgb + block.attn(block.norm1(rgb)) + to_rgb, x + block.attn(block.norm1(x)) + to_x
        to_rgb, to_x = added(layer.mlp, block.norm2, index)
        rgb, x = rgb + block.mlp(block.norm2(rgb)) + to_rgb, x + block.mlp(block.norm2(x)) + to_x
    total = base.rgb.norm(rgb) + base.rgb.norm(x)
    return torch.cat([total[:, :z], network.task(total[:, z:])], dim=1)


@pytest.mark.parametrize("source", ["own", "other"])
@pytest.mark.parametrize(("layers", "meetings"), [(None, {1, 2, 3}), ((0, 2), {0, 2}), ((), set())])
def test_forward_equals_the_one_written_out(source: Any, layers: Any, meetings: set[int]) -> None:
    network = tuned(PATrackSection(source=source, entangled_layers=layers))
    with torch.no_grad():
        output = network(*crops())
        expected = network.base.answer(written_out(network, *crops(), source, meetings))
    for name, mine, theirs in zip(output._fields, output, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_the_source_of_frequencies_matters() -> None:
    answers = []
    for source in ("own", "other"):
        network = tuned(PATrackSection(source=source))
        with torch.no_grad():
            answers.append(network(*crops()).features)
    assert not torch.allclose(*answers, rtol=1e-3)


def test_both_modalities_and_every_adapter_reach_the_answer() -> None:
    network = tuned().train()
    network.head.freeze_statistics()
    for parameter in network.base.parameters():
        parameter.requires_grad_(False)
    template, search = (images.requires_grad_() for images in crops())
    output = network(template, search)
    sum(F.mse_loss(value, torch.zeros_like(value)) for value in output[:3]).backward()  # type: ignore[union-attr]
    assert template.grad is not None
    assert all(template.grad[:, half].abs().sum() > 0 for half in (slice(0, 3), slice(3, 6)))
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith("base."), name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("template", "search"), [(24, 56), (8, 40)])
def test_crops_of_any_size_are_taken(template: int, search: int) -> None:
    """The grids have 3 and 7, and 1 and 5 cells; the published code takes only 8 and 16."""
    torch.manual_seed(0)
    config = preset("tiny", kind="single_stream", depth=4, embed_dim=16, num_heads=2, head_channels=8, patch=8,
                    template_size=template, search_size=search)  # fmt: skip
    network = PATrack(build_network(config), PATrackSection()).double().eval()
    with torch.no_grad():
        output = network(*crops(template, search))
        expected = network.base.answer(written_out(network, *crops(template, search), "own", {1, 2, 3}))
    assert output.score_map.shape[-1] == search // 8
    torch.testing.assert_close(output.features, expected.features, rtol=1e-9, atol=1e-9)


def test_vit_b_has_3_72_million_adapter_parameters() -> None:
    with torch.device("meta"):
        network = PATrack(build_network(preset("vit_b_256", kind="single_stream")), PATrackSection())
        gated = PATrack(build_network(preset("vit_b_256", kind="single_stream")), PATrackSection(gated=True))

    def count(module: Any) -> int:
        return sum(p.numel() for name, p in module.named_parameters() if not name.startswith("base."))

    # Nine layers of two mixers, three of two fusions, and the adapter before the head.
    assert count(network) == 18 * 16_300 + 6 * 516_096 + 332_928
    assert count(gated) == 18 * 16_300 + 6 * 516_098 + 332_928
    assert round(count(gated) / 1e6, 2) == round(count(network) / 1e6, 2) == 3.72
    frozen = sum(p.numel() for p in network.base.parameters())
    assert frozen == sum(p.numel() for p in build_on_meta().parameters())


def build_on_meta() -> Tracker:
    with torch.device("meta"):
        return build_network(preset("vit_b_256", kind="single_stream"))


def test_recomputed_activations_give_the_same_gradient_of_less_memory() -> None:
    """There is dropout, so what is computed twice has to draw the same numbers twice."""
    gradients, sizes = [], []
    for recomputed in (False, True):
        network = tuned().train()
        if recomputed:
            recompute_blocks(network)
        saved: list[int] = []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=saved: kept.append(t.numel()) or t, lambda t: t):  # type: ignore[misc]
            network(*crops()).score_map.sum().backward()
        gradients.append(
            [parameter.grad for name, parameter in network.named_parameters() if name.startswith("layers.")]
        )
        sizes.append(sum(saved))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert sizes[1] < 0.7 * sizes[0]


def test_elimination_is_refused_before_and_later() -> None:
    with pytest.raises(RGBXError, match=r"cannot keep 0.7 of them; set network.keep_ratio=1"):
        PATrack(rgb_tracker(elimination_layers=(1,), keep_ratio=0.7), PATrackSection())
    network = PATrack(rgb_tracker(elimination_layers=(1,)), PATrackSection())
    with pytest.raises(RGBXError, match=r"cannot keep 0.5"):
        network.set_keep_ratio(0.5)
    network.set_keep_ratio(1.0)


def test_layers_that_the_network_lacks_are_refused() -> None:
    with pytest.raises(RGBXError, match=r"\[3, 6\] are not all layers of this network; they count from 0 to 3"):
        PATrack(rgb_tracker(), PATrackSection(entangled_layers=(3, 6)))
    with pytest.raises(RGBXError, match="starts from a single_stream network"):
        PATrack(build_network(preset("tiny")), PATrackSection())


def test_meetings_of_the_published_depth_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = PATrack(build_network(preset("vit_t_256", kind="single_stream")), PATrackSection())
    names = [type(layer.attention).__name__ for layer in network.layers]
    assert [index for index, name in enumerate(names) if name == "ModalityEntangled"] == [3, 6, 9]
    assert names.count("ModalityDependent") == 9
