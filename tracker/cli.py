"""The command line ``rgbx``: every command reads arguments, calls one function and prints what came of it."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.config import RunConfig, load_config
from tracker.errors import RGBXError

# What a command needs is imported when it runs: torch takes seconds, and `rgbx --help` should not.

Command = TypeVar("Command", bound=Callable[..., None])

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class OneSentence(click.Group):
    """A group whose commands answer bad input with one sentence and exit status 2, never with a traceback."""

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
    """Exit status and sentence for an exception that is the user's business; None for a fault of ours."""
    if isinstance(error, RGBXError):
        return EXIT_BAD_INPUT, f"rgbx: error: {error}"
    if isinstance(error, OSError):
        from tracker.train.atomic import write_error

        if error.filename is None and error.errno is None:
            return None
        return EXIT_BAD_INPUT, f"rgbx: error: {write_error(error, error.filename or 'a file')}"
    if type(error).__name__ == "Interrupted":
        return EXIT_INTERRUPTED, f"rgbx: {error}"
    return None


@click.group(cls=OneSentence, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default as many as torch takes.")
@click.version_option(package_name="srft-kernels", prog_name="rgbx")
def cli(debug: bool, threads: int | None) -> None:
    """Train, run and evaluate RGB-X trackers (RGB with thermal, depth or events)."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


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


@cli.command()
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
    from tracker.train.pretrain import pretrain as run

    click.echo(f"wrote {run(config, resume, invocation('pretrain', path, overrides), weights)}")


@cli.command()
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
    from tracker.models.checkpoints import load_network
    from tracker.train.finetune import find_weights
    from tracker.train.prior import estimate_rgb_prior, save_prior

    network, _, _ = load_network(find_weights(checkpoint))
    estimated = estimate_rgb_prior(network, config)
    save_prior(estimated, out)
    if report:
        click.echo(estimated.report())
    click.echo(f"wrote {out}")


@cli.command()
@configured("tiny_rgbt")
@click.option("--resume", type=click.Path(path_type=Path), help="Checkpoint or run folder to continue from.")
def train(path: str, show_config: bool, overrides: tuple[str, ...], resume: Path | None) -> None:
    """Fine-tune the two-stream tracker from an RGB checkpoint, on generated sequences or a data set."""
    config = load_config(RunConfig, path, overrides)
    if shown(config, show_config):
        return
    from tracker.train.finetune import fine_tune

    weights, _ = fine_tune(config, resume, invocation("train", path, overrides))
    click.echo(f"wrote {weights}")


@cli.command("eval")
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Data set's folder; without it, generated sequences.")
@click.option("--results", type=click.Path(path_type=Path), help="Score these result files instead of a checkpoint.")
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train or test, where the data set has lists.")
@click.option(
    "--protocol",
    type=click.Choice(["auto", "lasher", "visevent", "gtot", "rgbt234"]),
    default="auto",
    show_default=True,
)
@click.option("--modality", type=click.Choice(["rgb", "thermal", "depth", "event"]), default="thermal")
@click.option("--count", type=click.IntRange(1), default=24, show_default=True, help="Generated sequences.")
@click.option("--length", type=click.IntRange(2), default=60, show_default=True, help="Frames of each of them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results, plots and the report.")
def evaluate(
    checkpoints: tuple[Path, ...],
    data: Path | None,
    results: Path | None,
    layout: str,
    split: str | None,
    protocol: str,
    modality: str,
    count: int,
    length: int,
    seed: int,
    out: Path | None,
) -> None:
    """Precision and success of checkpoints on a data set or on generated sequences, or of result files.

    CHECKPOINTS are files or names of shipped weights; several are compared.
    """
    from tracker.evaluation.report import text_table, write_report

    if results is not None:
        if checkpoints or data is None:
            raise RGBXError("--results scores files of boxes: give --data with the annotations, and no checkpoint")
        from tracker.evaluation import evaluate_folder

        metrics = [evaluate_folder(data, results, protocol, split=split, output=out)]
    else:
        if not checkpoints:
            raise RGBXError("nothing to evaluate: give one or more checkpoints, or --results with a folder of boxes")
        from tracker.train.assess import assess_checkpoints
        from tracker.train.sources import evaluation_sequences

        sequences = evaluation_sequences(data, layout, split, modality, count, length, seed)
        metrics = assess_checkpoints(checkpoints, sequences, protocol, out)
        if out is not None:
            write_report(metrics, out)
    click.echo(text_table(metrics))
    if out is not None:
        click.echo(f"wrote {out}")


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--init-box", help="x,y,w,h of the target in the first frame; default: groundtruth's first line.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for boxes, overlay and figures.")
@click.option("--layout", default="auto", show_default=True)
@click.option("--overlay", type=click.Choice(["gif", "mp4", "none"]), default="gif", show_default=True)
def track(checkpoint: Path, folder: Path, init_box: str | None, out: Path, layout: str, overlay: str) -> None:
    """Follow a target through a folder of paired frames."""
    from tracker.evaluation.report import text_table
    from tracker.inference import InferenceSettings, track_folder
    from tracker.models.checkpoints import load_network
    from tracker.train.finetune import find_weights

    box = None if init_box is None else read_box(init_box)
    network, _, meta = load_network(find_weights(checkpoint))
    run = track_folder(
        folder,
        {checkpoint.stem: network},
        out,
        layout=layout,
        init_box=box,
        settings=InferenceSettings.from_meta(meta),
        overlay=None if overlay == "none" else overlay,
        progress=True,
    )
    if run.metrics:
        click.echo(text_table(run.metrics))
    for file in run.files:
        click.echo(f"wrote {file}")


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Repetitions to average.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--quick", is_flag=True, help="Everything, tiny: to see that it works. The figures mean nothing.")
def demo(out: Path, seeds: int, first_seed: int, quick: bool) -> None:
    """Fine-tune the shipped RGB tracker to RGB-thermal with AdamW and with SRFT, and compare."""
    from tracker.demo import run_demo

    click.echo(run_demo(out, seeds=range(first_seed, first_seed + seeds), quick=quick))


@cli.group()
def data() -> None:
    """Generate data sets, and check folders."""


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["lasher", "depthtrack", "visevent", "folders"]),
    default="lasher",
    show_default=True,
)
@click.option("--count", type=click.IntRange(1), default=8, show_default=True)
@click.option("--length", type=click.IntRange(2), default=60, show_default=True)
@click.option("--size", default="192x144", show_default=True, help="WIDTHxHEIGHT")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--difficulty", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--modality", type=click.Choice(["thermal", "depth", "event"]), help="For the layout folders.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def generate(
    root: Path,
    layout: str,
    count: int,
    length: int,
    size: str,
    seed: int,
    difficulty: float,
    modality: str | None,
    split: str,
) -> None:
    """Write generated RGB-X sequences to ROOT in a data set's layout."""
    from tracker.data.layouts import write_dataset
    from tracker.data.synthetic import SyntheticConfig, synthetic_dataset

    own = {"lasher": "thermal", "depthtrack": "depth", "visevent": "event"}.get(layout)
    if modality is not None and own is not None and modality != own:
        raise RGBXError(f"the layout {layout} holds {own} sequences, not {modality}; leave --modality out")
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise RGBXError(f'--size "{size}" is not WIDTHxHEIGHT, for instance 192x144') from None
    config = SyntheticConfig(
        modality=modality or own or "thermal",
        size=(width, height),
        length=length,
        seed=seed,
        difficulty=difficulty,
        split=split,
    )
    with writing(root):
        written = write_dataset(synthetic_dataset(config, count, cache=False), root, layout, split, progress=True)
    click.echo(f"wrote {len(written)} sequences to {root}")


@data.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", default="auto", show_default=True)
@click.option("--split", help="train or test, where the data set has lists.")
@click.option("--decode/--no-decode", default=True, help="Read every frame, or file names and boxes only.")
def check(root: Path, layout: str, split: str | None, decode: bool) -> None:
    """Say what is wrong with the data set in ROOT; exit 1 if anything is."""
    from tracker.data.check import check_dataset

    report = check_dataset(root, layout, split, decode, progress=True)
    click.echo(str(report))
    if not report.ok:
        raise click.exceptions.Exit(1)


def read_box(text: str) -> tuple[float, ...]:
    """``x,y,w,h`` as four numbers; their range is checked where the image is known."""
    try:
        box = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RGBXError(f'--init-box "{text}" is not a box; write it as x,y,w,h in pixels')
    return box


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


def main() -> None:
    """Entry point of ``rgbx``."""
    sys.exit(cli(standalone_mode=True))


if __name__ == "__main__":
    main()
