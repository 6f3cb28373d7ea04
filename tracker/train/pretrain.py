"""Pre-training of the single-stream RGB tracker, from scratch or from a plain ViT, on day-light sequences."""

from __future__ import annotations

from pathlib import Path

from tracker.config import RunConfig
from tracker.models.checkpoints import save_network
from tracker.train.build import build_trainer, run_meta
from tracker.train.checkpoint import seed_everything
from tracker.train.distributed import processes
from tracker.train.optimizers import decay_groups
from tracker.train.prior import configured_prior
from tracker.train.run_folder import claim
from tracker.train.start import single_stream_start


def pretrain(config: RunConfig, resume: Path | None = None, invocation: str = "", weights: Path | None = None) -> Path:
    """Train an RGB tracker, from scratch or from the network that ``config.init`` names.

    That is an RGB tracker, or what ``rgbx weights convert`` made of a plain ViT.

    Args:
        config: the settings of the run.
        resume: a checkpoint, or the folder of a run, to go on from.
        invocation: the command line, for the meta of the weights.
        weights: a file that receives the weights too, in fp16 (batch-norm statistics stay fp32).

    Returns:
        The file with the weights, in ``config.output``.

    Raises:
        RGBXError: the configuration, the data or the checkpoint to resume from cannot be used, or the folder holds
            another run.
    """
    train = config.train
    path = config.output / "network.safetensors"
    with processes(train.device) as group:
        claim(config.output, resume)
        seed_everything(train.seed, train.deterministic)
        network, origin = single_stream_start(config)
        network = network.to(group.device)
        groups = decay_groups(network, train.lr, train.weight_decay)
        trainer = build_trainer(
            config, network, groups, "pretrain", group, configured_prior(config, network), invocation=invocation
        )
        if resume is not None:
            trainer.resume(resume)
        trainer.run()
        if not group.first:
            return path
        meta = run_meta(config, trainer, origin)
        save_network(path, network, network.config, meta)
        if weights is not None:
            save_network(weights, network, network.config, meta, half=True)
    return path
