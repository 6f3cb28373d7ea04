"""How the networks run: fused attention, bf16 under autocast, compiled whole, with and without elimination."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker.models.center_head import decode_boxes
from tracker.models.config import NetworkConfig
from tracker.models.tracker import TrackerOutput, build_network
from tracker.train.losses import TrackingLoss

PLAIN: dict[str, Any] = {}
ELIMINATING: dict[str, Any] = {"elimination_layers": (1,), "keep_ratio": 0.5}


def small(**changes: Any) -> NetworkConfig:
    settings: dict[str, Any] = {
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "patch": 8,
        "template_size": 16,
        "search_size": 32,
        "head_channels": 8,
        "cross_layers": (1,),
    }
    return NetworkConfig(**{**settings, **changes})


def network_and_crops(config: NetworkConfig, batch: int = 2) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    network = build_network(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    template, search = (torch.randn(batch, 6, side, side) for side in (config.template_size, config.search_size))
    return network, template, search


@pytest.mark.parametrize("options", [PLAIN, ELIMINATING])
def test_every_attention_is_torchs_fused_one(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(**options)
    network, template, search = network_and_crops(config)
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), fused(*a, **k))[1])
    with torch.no_grad():
        network(template, search)
    assert len(calls) == 2 * config.depth + len(config.cross)


@pytest.mark.parametrize("options", [PLAIN, ELIMINATING])
def test_bf16_answers_in_single_precision(options: dict[str, Any]) -> None:
    network, template, search = network_and_crops(small(**options))
    with torch.no_grad():
        exact: TrackerOutput = network.double()(template.double(), search.double())
        network.float()
        with torch.autocast("cpu", torch.bfloat16):
            output: TrackerOutput = network(template, search)
    assert {tensor.dtype for tensor in output} == {torch.float32}
    assert torch.equal(output.boxes[:, 0], decode_boxes(*output[:3]))
    # A rounding to bf16 is 2^-9 at most, and some ten follow one another in two layers.
    kept = (output.features != 0).any(dim=2) & (exact.features != 0).any(dim=2)
    error = (output.features - exact.features)[kept].norm() / exact.features[kept].norm()
    assert 0 < float(error) < 2**-5


def test_bf16_keeps_the_loss_of_a_certain_score_finite() -> None:
    """1 - 1e-4 is 1 in bf16, and the focal loss takes the logarithm of one minus the score."""
    network, template, search = network_and_crops(small())
    torch.nn.init.constant_(network.head.score[-1].bias, 1e3)
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = TrackingLoss()(network(template, search), boxes)["total"]
    assert bool(loss.isfinite().all())


def test_bf16_training_reaches_every_weight() -> None:
    network, template, search = network_and_crops(small(**ELIMINATING))
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        TrackingLoss()(network.train()(template, search), boxes)["total"].mean().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())


@pytest.mark.slow
def test_the_whole_network_is_one_graph_with_its_gradients() -> None:
    """Dynamo traces it and AOTAutograd differentiates it without a break, elimination included."""
    torch.compiler.reset()
    network, template, search = network_and_crops(
        small(depth=1, cross_layers=(0,), elimination_layers=(0,), keep_ratio=0.5)
    )
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(2, 1)
    gradients = []
    for run in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        TrackingLoss()(run(template, search), boxes)["total"].mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.slow
def test_compiled_to_machine_code_it_answers_the_same() -> None:
    torch.compiler.reset()
    network, template, search = network_and_crops(
        small(kind="single_stream", depth=1, cross_layers=(0,), elimination_layers=(0,), keep_ratio=0.5)
    )
    with torch.no_grad():
        expected = network(template, search)
        answered = torch.compile(network, fullgraph=True)(template, search)
    for mine, theirs in zip(answered, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
