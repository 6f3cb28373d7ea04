"""What several commands share: their configuration, the command that makes a run again, errors of the disk."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import click

from tracker.config import RunConfig
from tracker.errors import RGBXError

Command = TypeVar("Command", bound=Callable[..., None])


def configured(default: str) -> Callable[[Command], Command]:
    """Options of the commands that take a configuration file and overrides."""

    def decorate(command: Command) -> Command:
        for option in (
            click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]..."),
            click.option("--show-config", is_flag=True, help="Print the checked configuration and stop."),
            click.option(
                "--config",
                "path",
                default=default,
                show_default=True,
                help="YAML file, or the name of a shipped one.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def shown(config: RunConfig, show: bool) -> bool:
    if show:
        click.echo(config.to_yaml(), nl=False)
    return show


def invocation(command: str, path: str, overrides: Sequence[str]) -> str:
    """The command that makes the same run again, for the meta of what it writes; sums depend on the threads."""
    import torch

    return shlex.join(["rgbx", "--threads", str(torch.get_num_threads()), command, "--config", path, *overrides])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk, which seldom know their file, as one sentence with ``path`` in it."""
    from tracker.train.atomic import write_error

    try:
        yield
    except RGBXError:
        raise
    except OSError as error:
        raise write_error(error, error.filename or path) from error
