"""Prior significance of a pre-trained RGB tracker, and how it is carried to a two-stream tracker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import srft_kernels as srft
from srft_kernels import SignificanceMap
from tracker.config import PriorSection, RunConfig
from tracker.data.dataset import collate_pairs
from tracker.data.normalize import normalize
from tracker.errors import RGBXError
from tracker.files import write_error
from tracker.models.checkpoints.initialize import stream_mapping
from tracker.models.checkpoints.position_resizing import fit_positions
from tracker.models.config import NetworkConfig
from tracker.models.tracker import Tracker, TrackerOutput, build_network
from tracker.train.configured_data import pairs_of
from tracker.train.distributed import chosen_device
from tracker.train.losses import TrackingLoss
from tracker.train.prefetch import Batch, on_device
from tracker.tuning.base import TunedTracker


def rgb_batches(config: RunConfig, network: NetworkConfig) -> DataLoader[dict[str, Any]]:
    """Return the first ``prior.samples`` training pairs of the old task, in batches.

    The RGB tracker sees the RGB half of RGB-X data. Where its own data are not at hand, the target data can therefore
    stand in for them.

    Raises:
        RGBXError: data that cannot be opened.
    """
    prior = config.prior
    train = config.train.model_copy(
        update={"samples_per_epoch": prior.samples, "seed": prior.seed, "batch_size": prior.batch_size}
    )
    pairs = pairs_of(config.data, config.pairs, train, network)
    return prior_batches(pairs, prior)


def prior_batches(pairs: Dataset[Any], prior: PriorSection) -> DataLoader[dict[str, Any]]:
    """Return training pairs in the batches that :func:`estimate_rgb_prior` takes."""
    return DataLoader(
        pairs, batch_size=prior.batch_size, shuffle=False, num_workers=prior.workers, collate_fn=collate_pairs
    )


def estimate_rgb_prior(
    network: Tracker,
    config: RunConfig,
    progress: bool = True,
    batches: Iterable[Mapping[str, Any]] | None = None,
) -> SignificanceMap:
    """Significance of each parameter of the single-stream tracker for RGB tracking.

    It is estimated on ``batches`` of training pairs, by default those of :func:`rgb_batches`. One stream that has
    learned to track in something else is judged on pairs of that.

    It runs on ``config.train.device``. Afterwards the network is on the device where it was, and so is the map.

    ``config.prior.estimator`` is one of :func:`srft_kernels.estimate_prior`. The Fishers and ``hutchinson`` judge by
    the tracking loss; ``mas`` by all three maps of the head; ``gnb`` by the score map alone, each cell a Bernoulli
    variable, so that the branches for size and offset get no significance; ``magnitude`` and ``uniform`` read no
    data.

    Raises:
        RGBXError: the network is not a single-stream tracker, there is no such device, or nothing could be estimated.
    """
    if network.config.kind != "single_stream":
        raise RGBXError("a prior is estimated on the pre-trained RGB tracker, and this checkpoint is a two-stream one")
    prior = config.prior
    loss = TrackingLoss(config.loss.giou, config.loss.l1, config.loss.focal)
    home, device = next(network.parameters()).device, chosen_device(config.train.device)

    def run(model: nn.Module, batch: Mapping[str, Any]) -> tuple[TrackerOutput, Batch]:
        crops = on_device(batch, device)
        return model(normalize(crops.template), normalize(crops.search)), crops

    def per_sample(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        output, crops = run(model, batch)
        return loss(output, crops.box)["total"]

    def maps(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        output, _ = run(model, batch)
        return torch.cat([output.score_map, output.size_map, output.offset_map], dim=1).flatten(1)

    def score_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        return run(model, batch)[0].score_map.flatten(1).logit()

    arguments = _arguments(prior)
    if prior.estimator in ("fisher", "fisher_exact", "hutchinson"):
        arguments["loss_fn"] = per_sample
    elif prior.estimator in ("mas", "gnb"):
        arguments["outputs_fn"] = maps if prior.estimator == "mas" else score_logits
    if prior.estimator not in ("magnitude", "uniform"):
        arguments["batches"] = rgb_batches(config, network.config) if batches is None else batches
        arguments["relative_error"] = prior.relative_error
    try:
        estimated = srft.estimate_prior(
            network.to(device), estimator=prior.estimator, seed=prior.seed, progress=progress, **arguments
        )
    except ValueError as error:
        if isinstance(error, RGBXError):
            raise
        raise RGBXError(f"the prior could not be estimated: {error}") from error
    finally:
        network.to(home)
    return estimated.to(device=home)


def _arguments(prior: PriorSection) -> dict[str, Any]:
    """Return the arguments that are an estimator's own."""
    if prior.estimator == "fisher":
        return {"draws": prior.draws}
    if prior.estimator == "gnb":
        return {"draws": prior.draws, "likelihood": "bernoulli"}
    if prior.estimator == "hutchinson":
        # Differences would see the kinks of ReLU, L1 and GIoU, and little else.
        return {"probes": prior.draws, "method": "autograd"}
    return {}


def save_prior(prior: SignificanceMap, path: Path) -> None:
    """Write a significance map, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prior.save(path)
    except OSError as error:
        raise write_error(error, path) from error


def load_prior(path: Path) -> SignificanceMap:
    """Read a significance map.

    Raises:
        RGBXError: a missing, truncated or foreign file.
    """
    try:
        return SignificanceMap.load(path)
    except FileNotFoundError:
        raise RGBXError(f"significance map {path} does not exist; `rgbx prior` makes one") from None
    except (ValueError, OSError) as error:
        raise RGBXError(f"{path} cannot be used as a significance map: {error}") from error


def configured_prior(config: RunConfig, network: Tracker | TunedTracker) -> SignificanceMap | None:
    """Return the prior that the configuration names, under the names of ``network``, or None where it names none.

    Raises:
        RGBXError: the map cannot be read, or fits the network in no way.
    """
    if config.optimizer.name != "srft" or config.optimizer.prior is None:
        return None
    return prior_for(network, load_prior(config.optimizer.prior))


def prior_for(network: Tracker | TunedTracker, prior: SignificanceMap) -> SignificanceMap:
    """Return the map under the names of ``network``: as it is where it fits, else carried from one stream to two.

    What a tuning method adds has no significance, but for copies of pre-trained weights. Significance goes where the
    weights went, to both streams and the cross blocks. That of position embeddings is resized with them, bilinearly so
    that it does not become negative, which the map's ``info["positions_resized"]`` notes.

    Raises:
        RGBXError: it fits neither way; the message names what differs.
    """
    names = {name for name, _ in network.named_parameters()}
    if isinstance(network, TunedTracker):
        where = network.prior_names
        with torch.device("meta"):
            plain = build_network(network.config)
        carried = prior_for(plain, prior)
        return carried.rename(lambda name: [new for new in where(name) if new in names])
    if not set(prior) <= names or not any(name.startswith("x.") for name in prior):
        mapping = stream_mapping(network.config)
        if network.config.kind == "two_stream":
            prior = prior.rename(mapping)
    fitted, resized = fit_positions(prior, network.config, "the significance map", interpolation="bilinear")
    if resized:
        prior = SignificanceMap(
            fitted,
            estimator=prior.estimator,
            samples=prior.samples,
            model=prior.model,
            info={**prior.info, "positions_resized": resized},
            version=prior.version,
        )
    try:
        prior.check(network, strict=False)
    except ValueError as error:
        raise RGBXError(str(error)) from error
    return prior
