"""What several commands share: their settings, the command line that makes a run again, and errors of the disk."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from tracker.config import RunConfig
from tracker.errors import RGBXError
from tracker.spellings import american

Command = TypeVar("Command", bound=Callable[..., None])


class StyleChoice(click.Choice[str]):
    """Styles by name; the British spelling of a name is understood."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Find the style that is meant."""
        return super().convert(american(value), param, ctx)


class Configured(click.Command):
    """A command that takes settings, whose ``--help`` explains each of them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from tracker.config.text import help_of

        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write(help_of(str(self.name)) + "\n")


def configured(default: str) -> Callable[[Command], Command]:
    """Add the options of commands that take a configuration file and overrides."""

    def decorate(command: Command) -> Command:
        for option in (
            click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]..."),
            click.option(
                "--show-config", is_flag=True, help="Print the checked configuration, each setting explained, and stop."
            ),
            click.option("--config", "path", help=f"YAML file, or the name of a shipped one.  [default: {default}]"),
        ):
            command = option(command)
        return command

    return decorate


def shown(config: RunConfig, show: bool, command: str) -> bool:
    """Print the configuration if that is asked for, and say whether it was."""
    if show:
        from tracker.config.text import explained_yaml

        click.echo(explained_yaml(config, command), nl=False)
    return show


def invocation(command: str, path: str, overrides: Sequence[str]) -> str:
    """Return the command line that makes the same run again. It names the threads, because sums depend on them."""
    import torch

    return shlex.join(["rgbx", "--threads", str(torch.get_num_threads()), command, "--config", path, *overrides])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the disk into one sentence. It names ``path`` where they do not know their file."""
    from tracker.files import write_error

    try:
        yield
    except RGBXError:
        raise
    except OSError as error:
        raise write_error(error, error.filename or path) from error


def refuse_idle(where: str, *names: str) -> None:
    """Refuse options of the current command that were given and have no effect.

    Args:
        where: when that is so, as the end of a sentence, such as "in a folder of frames".
        names: of the options' parameters.

    Raises:
        RGBXError: one of them was given; names it.
    """
    context = click.get_current_context()
    options = {option.name: option.opts[0] for option in context.command.params}
    for name in names:
        if context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            raise RGBXError(f"{options[name]} has no effect {where}; leave it out")
