"""Prior significance of a pre-trained RGB tracker, and its way to a two-stream one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import default_collate

import srft_kernels as srft
from srft_kernels import SignificanceMap
from tracker.config import RunConfig
from tracker.data.normalise import normalise
from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.initialise import stream_mapping
from tracker.models.stream import Tracker
from tracker.train.atomic import write_error
from tracker.train.losses import TrackingLoss
from tracker.train.sources import pairs_of


class RGBBatches:
    """The first ``prior.samples`` training pairs of the old task, in batches; sized, for the time left."""

    def __init__(self, config: RunConfig, network: NetworkConfig) -> None:
        train = config.train.model_copy(
            update={"samples_per_epoch": config.prior.samples, "seed": config.prior.seed, "batch_size": 1}
        )
        self.pairs = pairs_of(config.data, config.pairs, train, network)
        self.samples, self.size = config.prior.samples, config.prior.batch_size

    def __len__(self) -> int:
        return -(-self.samples // self.size)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for first in range(0, self.samples, self.size):
            yield default_collate([self.pairs[i] for i in range(first, min(first + self.size, self.samples))])


def estimate_rgb_prior(network: Tracker, config: RunConfig, progress: bool = True) -> SignificanceMap:
    """Empirical Fisher of the tracking loss on RGB pairs, by parameter of the single-stream tracker.

    Raises:
        RGBXError: the network is not a single-stream tracker, or nothing could be estimated.
    """
    if network.config.kind != "single_stream":
        raise RGBXError("a prior is estimated on the pre-trained RGB tracker, and this checkpoint is a two-stream one")
    loss = TrackingLoss(config.loss.giou, config.loss.l1, config.loss.focal)
    device = next(network.parameters()).device

    def per_sample(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        template, search = (normalise(batch[name].to(device)) for name in ("template", "search"))
        return loss(model(template, search), batch["box"].to(device))["total"]

    try:
        return srft.estimate_prior(
            network,
            per_sample,
            RGBBatches(config, network.config),
            estimator=config.prior.estimator,
            seed=config.prior.seed,
            progress=progress,
        )
    except ValueError as error:
        raise RGBXError(f"the prior could not be estimated: {error}") from error


def save_prior(prior: SignificanceMap, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prior.save(path)
    except OSError as error:
        raise write_error(error, path) from error


def load_prior(path: Path) -> SignificanceMap:
    """Read a significance map; one sentence for a missing, truncated or foreign file."""
    try:
        return SignificanceMap.load(path)
    except FileNotFoundError:
        raise RGBXError(f"significance map {path} does not exist; `rgbx prior` makes one") from None
    except (ValueError, OSError) as error:
        raise RGBXError(f"{path} cannot be used as a significance map: {error}") from error


def prior_for(network: Tracker, prior: SignificanceMap) -> SignificanceMap:
    """The map under the names of ``network``: as it is where it fits, else carried from one stream to two.

    Raises:
        RGBXError: it fits neither way; the message names what differs.
    """
    names = {name for name, _ in network.named_parameters()}
    if not set(prior) <= names or not any(name.startswith("x.") for name in prior):
        mapping = stream_mapping(network.config)
        if network.config.kind == "two_stream":
            prior = prior.rename(mapping)
    try:
        prior.check(network, strict=False)
    except ValueError as error:
        raise RGBXError(str(error)) from error
    return prior
