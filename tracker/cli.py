"""The command line ``rgbx``. Every command reads its arguments, calls one function and prints the result."""

from __future__ import annotations

import sys
from typing import Any

import click

from tracker.commands.data import data
from tracker.commands.demonstration import demo
from tracker.commands.evaluation import evaluate
from tracker.commands.export import export
from tracker.commands.methods import compare_methods
from tracker.commands.tracking import track
from tracker.commands.training import pretrain, prior, train
from tracker.commands.viewing import compare, view
from tracker.commands.vot import vot
from tracker.commands.weights import weights
from tracker.errors import RGBXError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class RGBXGroup(click.Group):
    """A group of commands that answers bad input with one sentence and exit status 2, and never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if ctx.params.get("debug"):
                raise
            error.show()
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("rgbx: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            sentence = explain(error)
            if sentence is None:
                raise
            click.echo(sentence[1], err=True)
            ctx.exit(sentence[0])


def explain(error: Exception) -> tuple[int, str] | None:
    """Return exit status and sentence for an error of the user's input or disk, and None for a fault of the program."""
    if isinstance(error, RGBXError):
        return EXIT_BAD_INPUT, f"rgbx: error: {error}"
    if isinstance(error, OSError):
        from tracker.files import write_error

        if error.filename is None and error.errno is None:
            return None
        return EXIT_BAD_INPUT, f"rgbx: error: {write_error(error, error.filename or 'a file')}"
    if type(error).__name__ == "Interrupted":
        return EXIT_INTERRUPTED, f"rgbx: {error}"
    return None


@click.group(cls=RGBXGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default as many as torch takes.")
@click.version_option(package_name="srft-kernels", prog_name="rgbx")
def cli(debug: bool, threads: int | None) -> None:
    """Train, run and evaluate RGB-X trackers (RGB with thermal, depth or events)."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


for command in (
    pretrain,
    prior,
    train,
    track,
    evaluate,
    demo,
    data,
    weights,
    view,
    compare,
    compare_methods,
    vot,
    export,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of ``rgbx``."""
    sys.exit(cli(standalone_mode=True))


if __name__ == "__main__":
    main()
