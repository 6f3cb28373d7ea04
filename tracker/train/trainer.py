"""The training loop. A resumed run ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from tracker.config import TrainSection
from tracker.data.dataset import collate_pairs
from tracker.data.normalize import normalize
from tracker.errors import RGBXError
from tracker.models.elimination import keep_ratio_at
from tracker.train.activations import recompute_blocks
from tracker.train.checkpoint import (
    check_module,
    checkpoint_path,
    checkpoints_in,
    find_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    rng_state,
    save_checkpoint,
    seed_process,
    set_rng_state,
)
from tracker.train.distributed import Processes
from tracker.train.log import ScalarLog, progress
from tracker.train.prefetch import Batch, ahead
from tracker.train.run_folder import CHECKPOINTS, TENSORBOARD, claim
from tracker.tuning.base import TunedTracker

log = logging.getLogger("rgbx")

KEEP_RATIOS = 32
"""Graphs that torch.compile may make of one network. OSTrack's warm-up has 17 keep ratios, each of which is a graph."""


class Pairs(Protocol):
    """What the trainer asks of a data set. Sample ``i`` must be a pure function of (seed, epoch, i)."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Interrupted(Exception):
    """A signal stopped the run after a whole step. ``checkpoint`` holds its state, if the run saves any."""

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        super().__init__(f"stopped after step {step}" + (f"; resume from {checkpoint}" if checkpoint else ""))
        self.checkpoint = checkpoint
        self.step = step


@dataclass(frozen=True)
class StepRecord:
    """One line of the log. ``step`` counts finished steps."""

    step: int
    scalars: Mapping[str, float]


class Remaining(Sampler[int]):
    """The indices of the epoch that are still to come, in order, because the data set itself is what is random.

    A process draws its own part of each batch, so that all processes together draw what one alone would.
    """

    def __init__(self, batch_size: int, processes: Processes) -> None:
        self.first = self.end = 0
        self.batch_size, self.share = batch_size, processes.share(batch_size)
        self.offset = processes.rank * self.share

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.first, self.end, self.batch_size):
            yield from range(batch + self.offset, batch + self.offset + self.share)

    def __len__(self) -> int:
        return (self.end - self.first) // self.batch_size * self.share


class Trainer:
    """Train ``network`` on ``dataset`` for ``settings.total_steps`` steps.

    Args:
        network: answers ``network(template, search)`` with what ``loss`` understands; already on its device.
        loss: ``loss(output, boxes (B,4))`` gives a dict of per-sample losses (B,), ``total`` among them.
        optimizer: any torch optimizer; ``penalty`` and ``kappa`` are logged where it has them.
        scheduler: stepped once a training step.
        dataset: see :class:`Pairs`.
        settings: batch size, clipping, precision, how often to log and save.
        folder: receives ``checkpoints/`` and ``tensorboard/``; None writes nothing.
        config: the run's configuration as plain types, stored in checkpoints.
        validate: called with the epoch at its end, by every process; returns scalars to log.
        title: of the progress bar, and the command that a checkpoint is of.
        processes: those of the run, one by default. Each takes an equal part of every batch, gradients are averaged,
            and the first one logs and saves. With dropout left out the run is that of one process, up to rounding.
        invocation: the command line that makes the same run again, stored in checkpoints.
        progress: show a progress bar on stderr.

    Raises:
        RGBXError: batches cannot be shared by the processes, or batch norms would train on parts of them.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., Mapping[str, Tensor]],
        optimizer: Optimizer,
        scheduler: LRScheduler,
        dataset: Pairs,
        settings: TrainSection,
        folder: Path | None = None,
        config: Mapping[str, Any] | None = None,
        validate: Callable[[int], Mapping[str, float]] | None = None,
        title: str = "train",
        processes: Processes | None = None,
        invocation: str = "",
        progress: bool = True,
    ) -> None:
        self.network, self.loss, self.optimizer, self.scheduler = network, loss, optimizer, scheduler
        self.dataset, self.settings, self.folder = dataset, settings, folder
        self.config, self.validate, self.title = dict(config or {}), validate, title
        self.invocation, self.shows_progress = invocation, progress
        self.device = next(network.parameters()).device
        self.processes = processes or Processes(device=self.device)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.step = 0  # finished steps
        self.epoch = 0  # the epoch being trained
        self.index = 0  # samples of that epoch already used
        self.history: list[StepRecord] = []
        self._remaining = Remaining(settings.batch_size, self.processes)
        if self._remaining.share % settings.accumulate:
            raise RGBXError(
                f"a process's {self._remaining.share} samples do not divide into {settings.accumulate} equal parts; "
                "change train.accumulate or train.batch_size"
            )
        if self.processes.count > 1 and settings.batchnorm == "train":
            raise RGBXError(
                "train.batchnorm=train would give every process statistics of its own part of the batch; "
                "set train.batchnorm=frozen, or train in one process"
            )
        self._loader: DataLoader[dict[str, Tensor]] | None = None
        self._owns_folder = False  # what is in the folder is of this run
        self._stop = False  # asked of this process
        self._stopping = False  # what all processes have agreed on
        self.model = self._prepared()
        if not self.processes.first:
            # Each process draws its own drop path; the first one draws as a run of one process does.
            seed_process(settings.seed, self.processes.rank)

    def _prepared(self) -> Callable[..., Any]:
        """Return what training calls for a forward pass. ``network`` keeps its weights and its names."""
        s = self.settings
        if s.tf32 and self.device.type != "cuda":
            raise RGBXError("train.tf32 is for a GPU, and this run is on the CPU; leave train.tf32 out")
        if s.tf32:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        if s.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if s.activation_checkpointing:
            recompute_blocks(self.network)
        model: nn.Module = self.network
        if self.processes.count > 1:
            where = [self.device] if self.device.type == "cuda" else None
            unused = getattr(model, "has_unused", False)
            model = DistributedDataParallel(model, where, gradient_as_bucket_view=True, find_unused_parameters=unused)
        if s.compile and _eliminates(self.network):
            # Every keep ratio of the warm-up is another graph.
            limit = torch._dynamo.config
            limit.recompile_limit = max(limit.recompile_limit, KEEP_RATIOS)
        return torch.compile(model) if s.compile else model

    # ---------------------------------------------------------------- the loop

    def run(self, until: int | None = None) -> list[StepRecord]:
        """Train from where the state stands to the end, or to step ``until``, and return the log of this call.

        Raises:
            RGBXError: the loss or the gradient is not finite; the state is that of the last good step. Or the folder
                holds another run. Or a loader process died; the last checkpoint is named.
            Interrupted: SIGINT or SIGTERM came; the state was saved.
        """
        s = self.settings
        last = s.total_steps if until is None else min(until, s.total_steps)
        first = self.processes.first
        if self.folder and not self._owns_folder:
            claim(self.folder, None)
            self._owns_folder = True
        scalar_log = ScalarLog(self.folder / TENSORBOARD, self.step) if self.folder and first else None
        shown = first and self.shows_progress
        bar = progress(total=last, initial=self.step, title=self.title, unit="step", shown=shown)
        clock, clock_step = time.perf_counter(), self.step
        self.train_mode()
        try:
            with self._signals(), self._loader_deaths():
                while self.step < last:
                    self.begin_epoch()
                    for batch in ahead(self.batches(), self.device):
                        scalars = self.train_step(batch)
                        bar.update()
                        if self.step % s.log_every == 0 or self.step == last:
                            values = self.read(scalars)
                            now = time.perf_counter()
                            rate = (self.step - clock_step) * s.batch_size / max(now - clock, 1e-9)
                            clock, clock_step = now, self.step
                            record = StepRecord(self.step, {**values, "samples_per_second": rate})
                            self.history.append(record)
                            bar.set_postfix(loss=f"{record.scalars['loss/total']:.3f}", refresh=False)
                            if scalar_log:
                                scalar_log.write(self.step, record.scalars)
                        at_end = self.index >= s.steps_per_epoch * s.batch_size
                        if at_end:
                            self.epoch, self.index = self.epoch + 1, 0
                        if self.folder and self._due(at_end, last):
                            self.save()
                        if self._stopping:
                            raise Interrupted(self.save() if self.folder else None, self.step)
                        if self.step >= last:
                            break
                    if self.index == 0 and self.validate is not None:
                        measured = self.validate(self.epoch)
                        self.train_mode()
                        if measured:
                            self.history.append(StepRecord(self.step, dict(measured)))
                            bar.write(f"epoch {self.epoch}: " + ", ".join(f"{k} {v:.3f}" for k, v in measured.items()))
                            if scalar_log:
                                scalar_log.write(self.step, measured)
        finally:
            bar.close()
            if scalar_log:
                scalar_log.close()
        return self.history

    @contextlib.contextmanager
    def _loader_deaths(self) -> Iterator[None]:
        """Report in one sentence that a loader process died, and from which checkpoint to go on.

        Torch raises the error in the middle of a step, so nothing is saved then; the last checkpoint is of a whole
        step.
        """
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            self._loader = None
            found = checkpoints_in(self.folder / CHECKPOINTS) if self.folder else []
            kept = f"resume from {found[-1]}" if found else "no checkpoint was due before"
            raise RGBXError(
                f"a loader process died after step {self.step}, as the system ends one when memory runs out; {kept} "
                f"(train.workers={max(self.settings.workers // 2, 0)} takes less memory)"
            ) from error

    def begin_epoch(self) -> None:
        """Tell the data which epoch it is, and a network that eliminates candidates as well."""
        self.dataset.set_epoch(self.epoch)
        if _eliminates(self.network):
            network: Any = self.network
            # Its schedule counts epochs from 1.
            network.set_keep_ratio(keep_ratio_at(self.epoch + 1, network.config.keep_ratio))

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one training step. Scalars stay tensors until they are logged, so that the host does not wait."""
        # A batch norm that is trained moves its statistics before the loss is known, so they may have to be put back.
        moving = self.network.buffers() if self.settings.batchnorm == "train" else ()
        buffers = [(buffer, buffer.clone()) for buffer in moving]
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(tensor.chunk(self.settings.accumulate) for tensor in batch), strict=True))
        sums: dict[str, Tensor] = {}
        for number, (template, search, box) in enumerate(parts, start=1):
            with self._averaging(number == len(parts)):
                losses = self.loss(self.forward(template, search), box)
                (losses["total"].mean() / len(parts)).backward()
            for name, part in losses.items():
                value = part.detach().mean() / len(parts)
                sums[f"loss/{name}"] = sums[f"loss/{name}"] + value if number > 1 else value
        norm = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        self._check_finite_and_stop(sums, norm, buffers)
        nn.utils.clip_grads_with_norm_(self.trained, self.settings.clip_grad_norm or math.inf, norm)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self.index += self.settings.batch_size
        return {**sums, "gradient_norm": norm}

    def forward(self, template: Tensor, search: Tensor) -> Any:
        """Return the network's answer to crops (B, 6, H, W) uint8, in the configured precision."""
        template, search = normalize(template), normalize(search)
        if self.settings.precision == "fp32":
            return self.model(template, search)
        with torch.autocast(self.device.type, torch.bfloat16), self._attention():
            return self.model(template, search)

    def batches(self) -> DataLoader[dict[str, Tensor]]:
        """Return a loader of what is left of the epoch. It has its own generator, so that it does not move torch's."""
        s = self.settings
        self._remaining.first = self.index
        self._remaining.end = s.steps_per_epoch * s.batch_size
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,  # type: ignore[arg-type]
                batch_size=self._remaining.share,
                sampler=self._remaining,
                collate_fn=collate_pairs,
                num_workers=s.workers,
                prefetch_factor=s.prefetch if s.workers else None,
                persistent_workers=s.workers > 0,
                worker_init_fn=_prepare_loader_process,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator().manual_seed(s.seed),
            )
        return self._loader

    def train_mode(self) -> None:
        """Put the network into training mode, except for batch norms whose statistics the settings freeze."""
        self.network.train()
        if self.settings.batchnorm == "frozen":
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def read(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        """Bring what is logged to the host. Losses are the means over all processes."""
        means = self.processes.mean(torch.stack([value.float() for value in scalars.values()]))
        values = dict(zip(scalars, means.tolist(), strict=True))
        values["lr"] = float(self.optimizer.param_groups[-1]["lr"])
        for name in ("penalty", "kappa"):
            value = getattr(self.optimizer, name, None)
            if value is not None:
                values[name] = float(value)
        return values

    # --------------------------------------------------------------- its state

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.epoch,
            "index": self.index,
            "network": trained_state(self.network),
            "base": base_fingerprint(self.network),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": rng_state(),
            "config": self.config,
            "command": self.title,
            "invocation": self.invocation,
            "threads": torch.get_num_threads(),
        }

    def save(self) -> Path:
        """Write a checkpoint, then drop the oldest; an interrupted write leaves the previous ones alone.

        All processes call it, because the state of each one's generators goes in; the first writes.
        """
        if self.folder is None:
            raise RGBXError("this run has no folder to save checkpoints in")
        path = checkpoint_path(self.folder / CHECKPOINTS, self.step)
        generators = self.processes.gathered(rng_state())
        if self.processes.first:
            save_checkpoint(path, {**self.state(), "rng_of_other_processes": generators[1:]})
            prune_checkpoints(path.parent, self.settings.keep_checkpoints, self.step)
        return path

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint file, or from the newest one in a run folder.

        As many processes and threads as wrote it go on to the same bits. With another number of processes the run goes
        on with the same batches, and with new random numbers for dropout. Going back to an earlier checkpoint gives the
        later ones in the run's own folder up: the next save removes them.

        Raises:
            RGBXError: there is none, it is not whole, or it does not fit; nothing is changed then.
        """
        path = find_checkpoint(path)
        state = load_checkpoint(path)
        check_module(trained_state(self.network), state["network"], path)
        if state.get("base") != base_fingerprint(self.network):
            raise RGBXError(
                f"{path} belongs to a run that started from another network (fingerprint {state.get('base')}, not "
                f"{base_fingerprint(self.network)}); resume with the init that it was started with"
            )
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise RGBXError(
                f"{path} does not fit the configured optimizer ({error}); use the run's own configuration"
            ) from error
        self.network.load_state_dict(state["network"], strict=not isinstance(self.network, TunedTracker))
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.epoch, self.index = state["step"], state["epoch"], state["index"]
        self.invocation = state.get("invocation") or self.invocation
        self._owns_folder = self.folder is not None and path.resolve().is_relative_to(self.folder.resolve())
        threads = state.get("threads", torch.get_num_threads())
        if threads != torch.get_num_threads() and self.processes.first:
            log.warning(
                "%s was made with %d threads and goes on with %d, so sums are rounded otherwise; --threads %d gives "
                "the same bits", path, threads, torch.get_num_threads(), threads,
            )  # fmt: skip
        generators = [state["rng"], *state.get("rng_of_other_processes", ())]
        if len(generators) == self.processes.count:
            set_rng_state(generators[self.processes.rank])
        else:
            seed_process(self.settings.seed, self.processes.rank, self.step)

    # ----------------------------------------------------------------- details

    def _due(self, at_end: bool, last: int) -> bool:
        every = self.settings.checkpoint_every
        return self.step >= last or (self.step % every == 0 if every else at_end)

    def _averaging(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Let processes average their gradients once a step, in the backward pass of a batch's last part."""
        if last or self.processes.count == 1:
            return contextlib.nullcontext()
        distributed: Any = self.model
        found: contextlib.AbstractContextManager[None] = distributed.no_sync()
        return found

    def _check_finite_and_stop(
        self, losses: Mapping[str, Tensor], norm: Tensor, buffers: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Find out in one transfer whether all is finite and whether any process was asked to stop."""
        total = losses["loss/total"]
        stop = torch.full_like(norm, self._stop)
        found = self.processes.largest(torch.stack([~total.isfinite(), ~norm.isfinite(), stop > 0]).float())
        bad_loss, bad_norm, stopping = found.tolist()
        if bad_loss or bad_norm:
            self.optimizer.zero_grad(set_to_none=True)
            parts = ", ".join(f"{name[5:]} {value.item():.4g}" for name, value in losses.items())
            what = f"loss is not finite ({parts})" if bad_loss else f"gradient is not finite (norm {norm.item()})"
            raise self._refusal(what, buffers)
        self._stopping = stopping > 0

    def _refusal(self, what: str, buffers: list[tuple[Tensor, Tensor]]) -> RGBXError:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        saved = checkpoints_in(self.folder / CHECKPOINTS) if self.folder else []
        where = f"; the last checkpoint is {saved[-1]}" if saved else ""
        return RGBXError(
            f"the {what} at step {self.step + 1}; this step has changed nothing, "
            f"so lower train.lr or look at the data{where}"
        )

    def _attention(self) -> contextlib.AbstractContextManager[None]:
        # The fused attention of torch's CPU build is slower backward in bf16 than all the rest of the step
        # together; written out as matrix products, attention uses the bf16 units as the linear layers do.
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()

    def _signals(self) -> _StopAfterStep:
        self._stop = self._stopping = False
        return _StopAfterStep(self)


def _eliminates(network: nn.Module) -> bool:
    return bool(getattr(getattr(network, "config", None), "elimination_layers", ()))


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint holds of the network: all of it, or of a tuned one what its file would."""
    return network.saved_state() if isinstance(network, TunedTracker) else network.state_dict()


def base_fingerprint(network: nn.Module) -> str | None:
    """Return the fingerprint of the network that a tuned one wraps, whose weights no checkpoint holds; else None."""
    origin = network.origin if isinstance(network, TunedTracker) else None
    return None if origin is None else origin.fingerprint


def _prepare_loader_process(worker: int) -> None:
    """Let a loader process ignore Ctrl-C and use one thread.

    Ctrl-C reaches loader processes too, and the step under way still needs their data. There are as many processes as
    cores are to be kept busy, so one thread each is enough.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _StopAfterStep:
    """Stop between two steps at the first SIGINT or SIGTERM, and at once at the second.

    A step cut in half would leave weights and moments of different steps behind.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.trainer._stop:
            raise KeyboardInterrupt
        self.trainer._stop = True
