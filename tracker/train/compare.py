"""Tuning methods side by side: the same RGB tracker, data, batches and seeds, and one table of what came of each."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from tracker.config import RunConfig, load_config
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.errors import RGBXError
from tracker.evaluation import Metrics, read_attributes, score_attributes
from tracker.evaluation.plots import COLORS, plot_curves
from tracker.files import write_text
from tracker.inference import InferenceSettings
from tracker.models.checkpoints import find_weights
from tracker.tables import aligned_table
from tracker.train.assess import assess
from tracker.train.build import run_meta
from tracker.train.checkpoint import checkpoints_in
from tracker.train.distributed import chosen_device
from tracker.train.finetune import fine_tuner
from tracker.train.prefetch import on_device
from tracker.train.prior import configured_prior
from tracker.train.start import starting_network
from tracker.train.trainer import Trainer
from tracker.tuning.base import TunedTracker
from tracker.tuning.files import load_tracker, save_tracker
from tracker.tuning.methods import METHODS

SRFT = "+srft"
"""After a method's name: with SRFT around its optimizer."""
RGB = "rgb"
BASE_NAME = "RGB tracker"
COST_FILE = "cost.json"
MEGABYTE = 1e6


@dataclass
class Row:
    """What came of one method; lists have an entry a seed.

    Attributes:
        name: of the method, ``+srft`` included.
        trained: parameters that train.
        total: parameters of the network that runs.
        memory: of training, in bytes; see :func:`training_memory`.
        step_seconds: of one training step.
        fps: frames a second on the test sequences.
        metrics: test set to its figures.
    """

    name: str
    trained: int
    total: int
    memory: int
    step_seconds: list[float] = field(default_factory=list)
    fps: list[float] = field(default_factory=list)
    metrics: dict[str, list[Metrics]] = field(default_factory=dict)

    def score(self, task: str, key: str) -> list[float]:
        """Return percent, a value for each seed."""
        return [100 * metrics.scores[key] for metrics in self.metrics[task]]


def compare_methods(
    runs: Mapping[str, RunConfig],
    out: Path,
    seeds: Iterable[int] = (0,),
    tests: Mapping[str, Sequence[Any]] | None = None,
    attributes: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Train each method with each seed, track with each, and write ``table.md``, ``table.json`` and plots to ``out``.

    Nothing is done twice. A finished run is read, an interrupted one goes on, and sequences that were tracked are not
    tracked again.

    Args:
        runs: name to configuration, as :func:`method_configs` returns it; ``train.seed`` and ``output`` are set for
            each seed.
        out: the folder.
        seeds: seeds of the order of the data, of drop path and of what a method adds.
        tests: name to sequences, by default those of :func:`task_sequences`. ``rgb`` are those of the old task.
        attributes: attribute files of the test sequences, for a second table.
        say: called with what is being done.

    Returns:
        The table as text.

    Raises:
        RGBXError: ``out`` holds runs with other settings, or what training and tracking raise.
    """
    seeds = list(seeds)
    if not runs or not seeds:
        raise RGBXError("nothing to compare; name one method and one seed at least")
    for name, run in runs.items():
        for seed in seeds:
            _finished(_seeded(run, seed, out / name / f"seed{seed}"))
    config = next(iter(runs.values()))
    tests = task_sequences(config) if tests is None else tests
    rows = []
    for name, run in runs.items():
        row: Row | None = None
        for seed in seeds:
            folder = out / name / f"seed{seed}"
            seeded = _seeded(run, seed, folder)
            cost = _finished(seeded)
            if cost is None:
                say(f"train {name}, seed {seed}")
                cost = train(seeded)
            if row is None:
                row = Row(name, cost["trained"], cost["total"], cost["memory"])
            row.step_seconds.append(cost["step_seconds"])
            say(f"track with {name}, seed {seed}")
            network, _, meta = load_tracker(folder / "network.safetensors")
            for task, sequences in tests.items():
                metrics, _ = assess(
                    network.to(chosen_device(config.train.device)), sequences, name,
                    settings=InferenceSettings.from_meta(meta), output=folder / "results" / task,
                )  # fmt: skip
                row.metrics.setdefault(task, []).append(metrics)
            row.fps.append(_speed(folder, tests))
        assert row is not None
        rows.append(row)
    reference = _reference(config, tests, out) if RGB in tests else None
    return write(rows, reference, tests, out, attributes)


def method_configs(methods: Sequence[str], path: str | None, overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Return the configuration of each method: the same file and overrides, of which each gets those that concern it.

    Settings of another method's section are left out, and those of SRFT where a method is without it.

    Args:
        methods: ``full`` or names of :data:`tracker.tuning.methods.METHODS`, each with ``+srft`` behind it or not.
        path: configuration file, or the name of a shipped one.
        overrides: ``section.key=value``.

    Raises:
        RGBXError: there is no such method; a setting cannot be used.
    """
    configs = {}
    for name in dict.fromkeys(methods):
        method, srft = name.removesuffix(SRFT), name.endswith(SRFT)
        if method != "full" and method not in METHODS:
            known = ", ".join(["full", *METHODS])
            raise RGBXError(f"method {name!r} is unknown; choose of {known}, each with {SRFT} behind it or not")
        foreign = {other for other in METHODS if other != method} | (set() if srft else {"optimizer"})
        own = [text for text in overrides if text.partition("=")[0].partition(".")[0].strip() not in foreign]
        optimizer = "srft" if srft else "adamw"
        own = [f"tuning={method}", f"optimizer.name={optimizer}", *own]
        configs[name] = load_config(RunConfig, path, own, command="train")
    return configs


def _seeded(config: RunConfig, seed: int, folder: Path) -> RunConfig:
    train = config.train.model_copy(update={"seed": seed})
    return config.model_copy(update={"train": train, "output": folder})


def _finished(config: RunConfig) -> dict[str, Any] | None:
    """Return the cost of a run that has ended, None of one that has not.

    Raises:
        RGBXError: it ended with other settings.
    """
    path = config.output / COST_FILE
    if not path.is_file():
        return None
    try:
        cost: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = cost["config"]
    except (ValueError, KeyError, OSError) as error:
        raise RGBXError(f"{path} cannot be read ({error}); remove {config.output} or give another --out") from error
    if before != config.model_dump(mode="json"):
        raise RGBXError(f"{config.output} holds a run with other settings; give another --out")
    return cost


def train(config: RunConfig) -> dict[str, Any]:
    """Run one training, from its newest checkpoint if it was interrupted. Return what it cost, and write that last."""
    torch.manual_seed(config.train.seed)
    network, origin = starting_network(config)
    network = network.to(chosen_device(config.train.device))
    trainer = fine_tuner(config, network, configured_prior(config, network), invocation="rgbx compare-methods")
    if checkpoints_in(config.output / "checkpoints"):
        trainer.resume(config.output)
    history = trainer.run()
    rates = [r.scalars["samples_per_second"] for r in history if "samples_per_second" in r.scalars]
    parameters = list(network.parameters())
    save_tracker(config.output / "network.safetensors", network, run_meta(config, trainer, origin))
    cost = {
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "total": sum(p.numel() for name, p in network.named_parameters() if runs_with(network, name)),
        "memory": training_memory(trainer),
        "step_seconds": config.train.batch_size / statistics.median(rates) if rates else float("nan"),
        "config": config.model_dump(mode="json"),
    }
    write_text(config.output / COST_FILE, json.dumps(cost, indent=1))
    return cost


def runs_with(network: nn.Module, name: str) -> bool:
    """Return whether a parameter is needed to run, and not to train alone."""
    return not isinstance(network, TunedTracker) or network.runs_with(name)


def training_memory(trainer: Trainer) -> int:
    """Return the bytes that a training step has to hold.

    They are parameters, buffers, gradients, the optimizer's state, and what the forward pass keeps for the backward
    pass, each storage once. They are counted, and so the same on any device. What an allocator takes besides is not
    included.
    """
    network = trainer.network
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # not the tensor itself, which would hold the graph that holds it

    batch = on_device(next(iter(trainer.batches())), trainer.device)
    trainer.train_mode()
    parts = [tensor.chunk(trainer.settings.accumulate)[0] for tensor in batch]
    generators = torch.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The graph has to live while its storages are counted, or their addresses come again.
        answer = trainer.loss(trainer.forward(*parts[:2]), parts[2])
    torch.set_rng_state(generators)
    weights = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    activations = sum(size for place, size in held.items() if place not in weights)
    del answer
    fixed = [*network.parameters(), *network.buffers()]
    gradients = [p for p in network.parameters() if p.requires_grad]
    state = [t for s in trainer.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    return activations + sum(t.numel() * t.element_size() for t in (*fixed, *gradients, *state))


def task_sequences(config: RunConfig, count: int = 24, length: int = 60) -> dict[str, list[Any]]:
    """Return sequences that no training saw, by modality, and RGB ones that show what is left of the old skill.

    They are generated where the training data are. Otherwise those of the new task are the test split of the training
    data, and the RGB ones are generated.
    """
    found: dict[str, list[Any]] = {}
    if config.data.source == "synthetic":
        modality = config.data.generated_modality
        found[modality] = generated(modality, count, length)
    else:
        from tracker.data.sources import with_split
        from tracker.train.configured_data import sequences_of

        for sequence in sequences_of(with_split(config.data, "test"))[0]:
            found.setdefault(sequence.modality, []).append(sequence)
    found.setdefault(RGB, generated(RGB, count, length))
    return found


def generated(modality: str, count: int, length: int, seed: int = 1_000) -> list[Any]:
    """Return sequences of photographs that are kept for testing."""
    return list(synthetic_dataset(SyntheticConfig(modality=modality, length=length, seed=seed, split="test"), count))


def _speed(folder: Path, tests: Mapping[str, Sequence[Any]]) -> float:
    """Return frames a second when the first test set was tracked, also if that was another day."""
    task = next(iter(tests))
    path = folder / "results" / task / "run.json"
    speed = json.loads(path.read_text(encoding="utf-8")).get("fps") if path.is_file() else None
    return float("nan") if speed is None else float(speed)


def _reference(config: RunConfig, tests: Mapping[str, Sequence[Any]], out: Path) -> Metrics:
    """Return the RGB tracker itself on the RGB sequences."""
    assert config.init is not None
    network, _, meta = load_tracker(find_weights(config.init))
    place = out / "rgb_tracker" / RGB
    return assess(network, tests[RGB], BASE_NAME, settings=InferenceSettings.from_meta(meta), output=place)[0]


HEAD = ["method", "trained", "runs", "memory MB", "ms / step", "FPS"]


def cells(row: Row, reference: Metrics | None) -> list[str]:
    """Return a line of the table: scores are percentages, mean and standard deviation over seeds."""
    line = [
        row.name,
        f"{row.trained:,}",
        f"{row.total:,}",
        f"{row.memory / MEGABYTE:.0f}",
        _spread([1e3 * seconds for seconds in row.step_seconds], 0),
        _spread(row.fps),
    ]
    for task in row.metrics:
        line += [_spread(row.score(task, key)) for key in ("SR", "PR")]
    if reference is not None:
        line.append(_spread([100 * score / (100 * reference.scores["SR"]) for score in row.score(RGB, "SR")]))
    return line


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def write(
    rows: Sequence[Row],
    reference: Metrics | None,
    tests: Mapping[str, Sequence[Any]],
    out: Path,
    attributes: Path | None = None,
) -> str:
    """Write tables and plots. Return the table as text."""
    head = [*HEAD, *(f"{task} {key}" for task in tests for key in ("SR", "PR")), *(["RGB kept"] if reference else [])]
    table = [head, *(cells(row, reference) for row in rows)]
    tables = [table]
    for task in tests:
        firsts = [row.metrics[task][0] for row in rows]
        for curve in ("success", "precision"):
            plot_curves(firsts, curve, out / f"{curve}_{task}.png", title=f"{task}: {curve}")
        if attributes is not None and task != RGB:
            names = [score.name for score in firsts[0].sequences]
            scores = score_attributes(firsts, read_attributes(attributes, names, firsts[0].protocol))
            values = [[f"{100 * value:.1f}" for value in line] for line in scores.scores["SR"]]
            lines = [[row.name, *line] for row, line in zip(rows, values, strict=True)]
            tables.append([[f"{task}: SR by attribute", *scores.attributes], *lines])
    _plot_cost(rows, next(iter(tests)), out / "trained_and_success.png")
    page = "\n\n".join(["# Tuning methods", _markdown(table), LEGEND, *(_markdown(more) for more in tables[1:])])
    write_text(out / "table.md", f"{page}\n")
    content = [
        {
            "method": row.name, "trained": row.trained, "total": row.total, "memory": row.memory,
            "step_seconds": row.step_seconds, "fps": row.fps,
            **{task: {key: row.score(task, key) for key in ("SR", "PR", "NPR")} for task in tests},
        }
        for row in rows
    ]  # fmt: skip
    rgb = None if reference is None else 100 * reference.scores["SR"]
    write_text(out / "table.json", json.dumps({"methods": content, "rgb_tracker_SR": rgb}, indent=1))
    return aligned_table(table[0], table[1:])


LEGEND = """Trained: parameters that train; runs: parameters of the network that runs. Memory is counted: weights,
gradients, optimizer state, and what a forward pass of one batch keeps for the backward pass. SR and PR are percentages
by LasHeR's formulas, mean and standard deviation over seeds. "RGB kept" is the success on RGB sequences as a percentage
of the RGB tracker's."""


def _markdown(table: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in table[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rule, *table[1:]])


def _plot_cost(rows: Sequence[Row], task: str, path: Path) -> None:
    """Plot trained parameters against success, with a point for each method."""
    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, color in zip(rows, COLORS * len(rows), strict=False):
        values = row.score(task, "SR")
        axes.scatter([row.trained] * len(values), values, color=color, label=row.name)
    axes.set_xscale("log")
    axes.set_xlabel("parameters that train")
    axes.set_ylabel(f"{task}: success (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
