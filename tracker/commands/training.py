"""``rgbx pretrain``, ``prior`` and ``train``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import configured, invocation, shown
from tracker.config import RunConfig, load_config


@click.command()
@configured("tiny_pretrain")
@click.option("--resume", type=click.Path(path_type=Path), help="Checkpoint or run folder to continue from.")
@click.option("--weights", type=click.Path(path_type=Path), help="Also store the weights here, in fp16.")
def pretrain(
    path: str, show_config: bool, overrides: tuple[str, ...], resume: Path | None, weights: Path | None
) -> None:
    """Train the RGB tracker from scratch on generated sequences."""
    config = load_config(RunConfig, path, overrides)
    if shown(config, show_config):
        return
    from tracker.train.distributed import first_process
    from tracker.train.pretrain import pretrain as run

    written = run(config, resume, invocation("pretrain", path, overrides), weights)
    if first_process():
        click.echo(f"wrote {written}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@configured("tiny_prior")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="NAME.significance.safetensors")
@click.option("--report/--no-report", default=True, help="Print significance per layer.")
def prior(checkpoint: Path, path: str, show_config: bool, overrides: tuple[str, ...], out: Path, report: bool) -> None:
    """Estimate the prior significance of a pre-trained RGB tracker on RGB pairs.

    CHECKPOINT is a file, or the name of shipped weights (tiny_rgb).
    """
    config = load_config(RunConfig, path, overrides)
    if shown(config, show_config):
        return
    from tracker.models.checkpoints import find_weights, load_network
    from tracker.train.prior import estimate_rgb_prior, save_prior

    network, _, _ = load_network(find_weights(checkpoint))
    estimated = estimate_rgb_prior(network, config)
    save_prior(estimated, out)
    if report:
        click.echo(estimated.report())
    click.echo(f"wrote {out}")


@click.command()
@configured("tiny_rgbt")
@click.option("--resume", type=click.Path(path_type=Path), help="Checkpoint or run folder to continue from.")
def train(path: str, show_config: bool, overrides: tuple[str, ...], resume: Path | None) -> None:
    """Fine-tune the two-stream tracker from an RGB checkpoint, on generated sequences or a data set.

    On several GPUs: torchrun --nproc-per-node=4 -m tracker train ... is one run of four processes.
    """
    config = load_config(RunConfig, path, overrides)
    if shown(config, show_config):
        return
    from tracker.train.distributed import first_process
    from tracker.train.finetune import fine_tune

    weights, _ = fine_tune(config, resume, invocation("train", path, overrides))
    if first_process():
        click.echo(f"wrote {weights}")
