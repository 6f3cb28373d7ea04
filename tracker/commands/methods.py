"""``rgbx compare-methods``."""

from __future__ import annotations

from pathlib import Path

import click

from tracker.commands.shared import configured, shown, writing

DEFAULT = "tiny_rgbt"
"""The configuration where none is named."""


@click.command("compare-methods")
@configured(DEFAULT)
@click.option("--methods", required=True, help="full,frozen,lora,...; each with +srft behind it or not.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Repetitions to average.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs, table and plots.")
@click.option("--attributes", type=click.Path(path_type=Path), help="Attribute files, or a CSV: success for each.")
@click.option("--count", type=click.IntRange(1), default=24, show_default=True, help="Generated test sequences.")
@click.option("--length", type=click.IntRange(2), default=60, show_default=True, help="Frames of each of them.")
def compare_methods(
    path: str | None,
    show_config: bool,
    overrides: tuple[str, ...],
    methods: str,
    seeds: int,
    first_seed: int,
    out: Path,
    attributes: Path | None,
    count: int,
    length: int,
) -> None:
    """Train tuning methods on the same data with the same budget and seeds, and write one table.

    Started again with the same settings it goes on where it stopped.
    """
    from tracker.train.compare import compare_methods as run
    from tracker.train.compare import method_configs, task_sequences

    names = [name.strip() for name in methods.split(",") if name.strip()]
    configs = method_configs(names, path or DEFAULT, overrides)
    if show_config:
        for name, config in configs.items():
            click.echo(f"# {name}")
            shown(config, True, "train")
        return
    with writing(out):
        table = run(
            configs,
            out,
            range(first_seed, first_seed + seeds),
            task_sequences(configs[names[0]], count, length) if names else None,
            attributes,
            lambda text: click.secho(text, bold=True, err=True),
        )
    click.echo(f"{table}\nwrote {out}")
