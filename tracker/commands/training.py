"""``rgbx pretrain``, ``prior`` and ``train``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import Configured, configured, invocation, shown
from tracker.config import RunConfig, load_config

RESUME = click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Checkpoint or run folder to go on from. Its configuration is taken; nothing else has to be given.",
)
DEFAULTS = {"pretrain": "tiny_pretrain", "prior": "tiny_prior", "train": "tiny_rgbt"}
"""The configuration of each command where none is named."""


def _settings(command: str, path: str | None, overrides: tuple[str, ...], resume: Path | None) -> tuple[RunConfig, str]:
    """Return the configuration of a run, and the command line that makes it again."""
    if resume is not None:
        from tracker.train.run_folder import resumed_config

        config, started_by = resumed_config(resume, command, path, overrides)
        return config, started_by or invocation(command, path or DEFAULTS[command], overrides)
    chosen = path or DEFAULTS[command]
    return load_config(RunConfig, chosen, overrides, command=command), invocation(command, chosen, overrides)


@click.command(cls=Configured)
@configured(DEFAULTS["pretrain"])
@RESUME
@click.option("--weights", type=click.Path(path_type=Path), help="Also store the weights here, in fp16.")
def pretrain(
    path: str | None, show_config: bool, overrides: tuple[str, ...], resume: Path | None, weights: Path | None
) -> None:
    """Train the RGB tracker from scratch on generated sequences."""
    config, command = _settings("pretrain", path, overrides, resume)
    if shown(config, show_config, "pretrain"):
        return
    from tracker.train.distributed import first_process
    from tracker.train.pretrain import pretrain as run

    written = run(config, resume, command, weights)
    if first_process():
        click.echo(f"wrote {written}")


@click.command(cls=Configured)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@configured(DEFAULTS["prior"])
@click.option("--out", type=click.Path(path_type=Path), required=True, help="NAME.significance.safetensors")
@click.option("--report/--no-report", default=True, help="Print significance per layer.")
def prior(
    checkpoint: Path, path: str | None, show_config: bool, overrides: tuple[str, ...], out: Path, report: bool
) -> None:
    """Estimate the prior significance of a pre-trained RGB tracker on RGB pairs.

    CHECKPOINT is a file, or the name of shipped weights (tiny_rgb).
    """
    config = load_config(RunConfig, path or DEFAULTS["prior"], overrides, command="prior")
    if shown(config, show_config, "prior"):
        return
    from tracker.models.checkpoints import find_weights, load_network
    from tracker.train.prior import estimate_rgb_prior, save_prior
    from tracker.train.start import check_finite

    network, _, _ = load_network(find_weights(checkpoint))
    check_finite(network, str(checkpoint))
    estimated = estimate_rgb_prior(network, config)
    save_prior(estimated, out)
    if report:
        click.echo(estimated.report())
    click.echo(f"wrote {out}")


@click.command(cls=Configured)
@configured(DEFAULTS["train"])
@RESUME
def train(path: str | None, show_config: bool, overrides: tuple[str, ...], resume: Path | None) -> None:
    """Fine-tune the two-stream tracker from an RGB checkpoint, on generated sequences or a data set.

    On several GPUs: torchrun --nproc-per-node=4 -m tracker train ... is one run of four processes.
    """
    config, command = _settings("train", path, overrides, resume)
    if shown(config, show_config, "train"):
        return
    from tracker.train.distributed import first_process
    from tracker.train.finetune import fine_tune

    weights, _ = fine_tune(config, resume, command)
    if first_process():
        click.echo(f"wrote {weights}")
