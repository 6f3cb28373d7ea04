"""The prior of an RGB tracker agrees with gradients of one sample at a time; and on which data it may be estimated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import srft_kernels as srft
from srft_kernels import SignificanceMap
from tracker.config import RunConfig, load_config
from tracker.data.layouts import write_dataset
from tracker.data.normalize import normalize
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, build_network
from tracker.train.losses import TrackingLoss
from tracker.train.prior import estimate_rgb_prior, prior_for, rgb_batches

SAMPLES = 5
GENERATED = ("data.modality=rgb", "data.sequences=2", "data.length=20", "data.width=80", "data.height=64")


def small(**changes: Any) -> NetworkConfig:
    settings: dict[str, Any] = {
        "kind": "single_stream",
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "template_size": 32,
        "search_size": 64,
        "head_channels": 8,
        "cross_layers": (1,),
    }
    return NetworkConfig(**{**settings, **changes})


@pytest.fixture
def network() -> Tracker:
    """Return a network away from its initial values, at which the head is certain of nothing.

    There some gradients vanish.
    """
    torch.manual_seed(0)
    made = build_network(small()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def configured(estimator: str, *overrides: str, data: tuple[str, ...] = GENERATED) -> RunConfig:
    settings = (f"prior.estimator={estimator}", f"prior.samples={SAMPLES}", "prior.batch_size=2", *data, *overrides)
    return load_config(RunConfig, None, settings)


def one_by_one(network: Tracker, config: RunConfig, value: Callable[[Any, Tensor], Tensor]) -> dict[str, list[Tensor]]:
    """Return the gradient of each sample's ``value(output, box)``, by parameter."""
    gradients: dict[str, list[Tensor]] = {name: [] for name, _ in network.named_parameters()}
    for batch in rgb_batches(config, network.config):
        for i in range(len(batch["box"])):
            template, search = (normalize(batch[name][i : i + 1]) for name in ("template", "search"))
            network.zero_grad()
            value(network(template, search), batch["box"][i : i + 1]).sum().backward()
            for name, parameter in network.named_parameters():
                gradients[name].append(
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                )
    network.zero_grad()
    return gradients


def tracking_loss(output: Any, box: Tensor) -> Tensor:
    return TrackingLoss()(output, box)["total"]


def squared_outputs(output: Any, box: Tensor) -> Tensor:
    return output.score_map.square().sum() + output.size_map.square().sum() + output.offset_map.square().sum()


@pytest.mark.parametrize(
    ("estimator", "value", "of_gradient"),
    [("fisher_exact", tracking_loss, torch.square), ("mas", squared_outputs, torch.abs)],
)
def test_significance_is_the_mean_over_samples(
    network: Tracker, estimator: str, value: Callable[[Any, Tensor], Tensor], of_gradient: Callable[[Tensor], Tensor]
) -> None:
    config = configured(estimator)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prior = estimate_rgb_prior(network, config, progress=False)
    assert (prior.estimator, prior.samples) == (estimator, SAMPLES)
    assert prior.check(network) == []
    for name, gradients in one_by_one(network, config, value).items():
        assert len(gradients) == SAMPLES
        expected = torch.stack([of_gradient(g) for g in gradients]).mean(dim=0)
        torch.testing.assert_close(prior[name], expected, rtol=2e-4, atol=1e-6 * float(expected.max()), msg=name)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_random_signs_average_to_the_exact_fisher(network: Tracker) -> None:
    exact = estimate_rgb_prior(network, configured("fisher_exact"), progress=False)
    drawn = estimate_rgb_prior(network, configured("fisher", "prior.draws=64"), progress=False)
    assert drawn.info["options"]["draws"] == 64
    # Of two samples, |g1 ± g2|² is off by 2 g1·g2, no more than its mean: 64 draws leave an eighth, here three times.
    for name in ("rgb.patch_embed.proj.weight", "rgb.blocks.1.mlp.fc1.weight", "head.score.0.conv.weight"):
        ratio = float(drawn[name].sum() / exact[name].sum())
        assert ratio == pytest.approx(1.0, abs=3 / 64**0.5), name


def test_hutchinson_judges_by_the_tracking_loss(network: Tracker) -> None:
    """The library's estimate, which its own tests compare with whole Hessians, is that of the loss written out here."""
    config = configured("hutchinson", "prior.draws=2")
    prior = estimate_rgb_prior(network, config, progress=False)
    assert prior.info["probes"] == 3 * 2

    def loss(model: Any, batch: Any) -> Tensor:
        output = model(normalize(batch["template"]), normalize(batch["search"]))
        return tracking_loss(output, batch["box"]).mean()

    expected = srft.hutchinson_diagonal(network, loss, rgb_batches(config, network.config), probes=2)
    for name, tensor in expected.items():
        torch.testing.assert_close(prior[name], tensor, rtol=1e-4, atol=1e-5 * float(tensor.max()), msg=name)


def test_gauss_newton_judges_by_the_score_map_alone(network: Tracker) -> None:
    prior = estimate_rgb_prior(network, configured("gnb"), progress=False)
    others = {name for name in prior if name.startswith(("head.size", "head.offset"))}
    assert set(prior.info["unreached"]) == others
    assert all(float(prior[name].max()) == 0 for name in others)
    assert all(float(prior[name].max()) > 0 for name in set(prior) - others)


def test_what_needs_no_data_reads_none(network: Tracker, tmp_path: Path) -> None:
    nowhere = ("data.source=folder", f"data.root={tmp_path / 'nowhere'}")
    magnitude = estimate_rgb_prior(network, configured("magnitude", data=nowhere), progress=False)
    uniform = estimate_rgb_prior(network, configured("uniform", data=nowhere), progress=False)
    for name, parameter in network.named_parameters():
        assert torch.equal(magnitude[name], parameter.detach().abs())
        assert torch.equal(uniform[name], torch.ones_like(parameter))
    with pytest.raises(RGBXError, match="is not a folder"):
        estimate_rgb_prior(network, configured("fisher", data=nowhere), progress=False)


def test_it_stops_where_the_map_is_known(network: Tracker) -> None:
    few = configured("fisher", "prior.samples=64", "prior.relative_error=0.99")
    prior = estimate_rgb_prior(network, few, progress=False)
    assert prior.info["relative_error"] <= 0.99
    assert prior.samples is not None
    assert prior.samples < 64


@pytest.fixture(scope="module")
def lasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two thermal sequences in LasHeR's layout."""
    root = tmp_path_factory.mktemp("lasher") / "set"
    config = SyntheticConfig(modality="thermal", size=(80, 64), length=20, seed=3, split="train")
    write_dataset(synthetic_dataset(config, 2, cache=False), root, "lasher", "train")
    return root


def test_of_rgb_x_data_the_rgb_half_counts(network: Tracker, lasher: Path) -> None:
    """The map is the same whatever the thermal images show."""
    config = configured("fisher", data=("data.source=folder", f"data.root={lasher}"))
    prior = estimate_rgb_prior(network, config, progress=False)
    assert prior.samples == SAMPLES
    images = sorted(lasher.glob("*/infrared/*"))
    assert images
    for file in images:
        cv2.imwrite(str(file), np.zeros((64, 80, 3), dtype=np.uint8))
    blind = estimate_rgb_prior(network, config, progress=False)
    assert all(torch.equal(blind[name], tensor) for name, tensor in prior.items())
    in_a_process_of_its_own = estimate_rgb_prior(
        network,
        configured("fisher", "prior.workers=1", data=("data.source=folder", f"data.root={lasher}")),
        progress=False,
    )
    assert all(torch.equal(in_a_process_of_its_own[name], tensor) for name, tensor in prior.items())


def test_progress_and_the_time_left_are_shown(network: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    estimate_rgb_prior(network, configured("fisher"))
    assert "3/3" in capsys.readouterr().err


def test_a_two_stream_tracker_is_refused() -> None:
    with pytest.raises(RGBXError, match="this checkpoint is a two-stream one"):
        estimate_rgb_prior(build_network(small(kind="two_stream")), configured("fisher"), progress=False)


def test_a_map_of_a_deeper_tracker_is_refused_by_name(network: Tracker) -> None:
    deeper = build_network(small(depth=3))
    prior = SignificanceMap({name: torch.ones_like(p) for name, p in deeper.named_parameters()})
    with pytest.raises(RGBXError, match=r"names that the model lacks.*blocks\.2"):
        prior_for(build_network(small(kind="two_stream")), prior)


def test_elimination_leaves_a_prior_for_every_weight() -> None:
    torch.manual_seed(0)
    network = build_network(small(elimination_layers=(1,), keep_ratio=0.5)).eval()
    prior = estimate_rgb_prior(network, configured("fisher"), progress=False)
    assert prior.check(network) == []
    assert prior.info["unreached"] == []
