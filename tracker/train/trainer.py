"""The training loop: data, forward, loss, step, log; a resumed run ends with the same bits."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from tracker.config import TrainSection
from tracker.data.normalise import normalise
from tracker.errors import RGBXError
from tracker.train.checkpoint import (
    check_module,
    checkpoint_path,
    checkpoints_in,
    find_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from tracker.train.log import ScalarLog, progress

LOSSES = ("total", "giou", "l1", "focal")


class Pairs(Protocol):
    """What the trainer asks of a data set: sample ``i`` is a pure function of (seed, epoch, i)."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Interrupted(Exception):
    """The run was stopped by a signal after a whole step; ``checkpoint`` holds its state, if it saves any."""

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        super().__init__(f"stopped after step {step}" + (f"; resume from {checkpoint}" if checkpoint else ""))
        self.checkpoint = checkpoint
        self.step = step


@dataclass(frozen=True)
class StepRecord:
    """One line of the log: ``step`` counts finished steps."""

    step: int
    scalars: Mapping[str, float]


class Remaining(Sampler[int]):
    """Indices of the epoch that are still to come, in order: the data set itself is what is random."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    def __len__(self) -> int:
        return self.end - self.first


class Trainer:
    """Trains ``network`` on ``dataset`` for ``settings.total_steps`` steps.

    Args:
        network: answers ``network(template, search)`` with what ``loss`` understands.
        loss: ``loss(output, boxes (B,4))`` gives a dict of per-sample losses (B,), ``total`` among them.
        optimizer: any torch optimizer; ``penalty`` and ``kappa`` are logged where it has them.
        scheduler: stepped once a training step.
        dataset: see :class:`Pairs`.
        settings: batch size, clipping, precision, how often to log and save.
        folder: receives ``checkpoints/`` and ``tensorboard/``; None writes nothing.
        config: the run's configuration as plain types, stored in checkpoints.
        validate: called with the epoch at its end; returns scalars to log.
        title: of the progress bar.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., Mapping[str, torch.Tensor]],
        optimizer: Optimizer,
        scheduler: LRScheduler,
        dataset: Pairs,
        settings: TrainSection,
        folder: Path | None = None,
        config: Mapping[str, Any] | None = None,
        validate: Callable[[int], Mapping[str, float]] | None = None,
        title: str = "train",
    ) -> None:
        self.network, self.loss, self.optimizer, self.scheduler = network, loss, optimizer, scheduler
        self.dataset, self.settings, self.folder = dataset, settings, folder
        self.config, self.validate, self.title = dict(config or {}), validate, title
        self.device = next(network.parameters()).device
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.step = 0  # finished steps
        self.epoch = 0  # the epoch being trained
        self.index = 0  # samples of that epoch already used
        self.history: list[StepRecord] = []
        self._remaining = Remaining(0, 0)
        self._loader: DataLoader[dict[str, torch.Tensor]] | None = None
        self._stop = False

    # ---------------------------------------------------------------- the loop

    def run(self, until: int | None = None) -> list[StepRecord]:
        """Train from where the state stands to the end, or to step ``until``; returns the log of this call.

        Raises:
            RGBXError: the loss or the gradient is not finite; the state is that of the last good step.
            Interrupted: SIGINT or SIGTERM came; the state was saved.
        """
        s = self.settings
        last = s.total_steps if until is None else min(until, s.total_steps)
        log = ScalarLog(self.folder / "tensorboard", self.step) if self.folder else None
        bar = progress(total=last, initial=self.step, title=self.title, unit="step")
        clock, clock_step = time.perf_counter(), self.step
        self.train_mode()
        try:
            with self._signals():
                while self.step < last:
                    self.dataset.set_epoch(self.epoch)
                    for batch in self.batches():
                        scalars = self.train_step(batch)
                        bar.update()
                        if self.step % s.log_every == 0 or self.step == last:
                            now = time.perf_counter()
                            rate = (self.step - clock_step) * s.batch_size / max(now - clock, 1e-9)
                            clock, clock_step = now, self.step
                            record = StepRecord(self.step, {**self.read(scalars), "samples_per_second": rate})
                            self.history.append(record)
                            bar.set_postfix(loss=f"{record.scalars['loss/total']:.3f}", refresh=False)
                            if log:
                                log.write(self.step, record.scalars)
                        at_end = self.index >= s.steps_per_epoch * s.batch_size
                        if at_end:
                            self.epoch, self.index = self.epoch + 1, 0
                        if self.folder and self._due(at_end, last):
                            self.save()
                        if self._stop:
                            raise Interrupted(self.save() if self.folder else None, self.step)
                        if self.step >= last:
                            break
                    if self.index == 0 and self.validate is not None:
                        measured = self.validate(self.epoch)
                        self.train_mode()
                        if measured:
                            self.history.append(StepRecord(self.step, dict(measured)))
                            bar.write(f"epoch {self.epoch}: " + ", ".join(f"{k} {v:.3f}" for k, v in measured.items()))
                            if log:
                                log.write(self.step, measured)
        finally:
            bar.close()
            if log:
                log.close()
        return self.history

    def train_step(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Forward, loss, backward, clip, step. Scalars stay tensors until they are logged."""
        # Batch norm moves its statistics in the forward pass, before anything is known of the loss.
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        losses = self.loss(self.forward(batch), batch["box"].to(self.device))
        scalars = {f"loss/{name}": losses[name].detach().mean() for name in LOSSES if name in losses}
        total = losses["total"].mean()
        if not bool(torch.isfinite(total)):
            parts = ", ".join(f"{name[5:]} {value.item():.4g}" for name, value in scalars.items())
            raise self._refusal(f"loss is not finite ({parts})", buffers)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        limit = self.settings.clip_grad_norm or math.inf
        norm = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        if not bool(torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise self._refusal(f"gradient is not finite (norm {norm.item()})", buffers)
        nn.utils.clip_grads_with_norm_(self.trained, limit, norm)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self.index += self.settings.batch_size
        return {**scalars, "gradient_norm": norm}

    def forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        template = normalise(batch["template"].to(self.device, non_blocking=True))
        search = normalise(batch["search"].to(self.device, non_blocking=True))
        if self.settings.precision == "fp32":
            return self.network(template, search)
        with torch.autocast(self.device.type, torch.bfloat16), self._attention():
            return self.network(template, search)

    def batches(self) -> DataLoader[dict[str, torch.Tensor]]:
        """What is left of the epoch. The loader has its own generator, so that it does not move torch's."""
        s = self.settings
        self._remaining.first = self.index
        self._remaining.end = s.steps_per_epoch * s.batch_size
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,  # type: ignore[arg-type]
                batch_size=s.batch_size,
                sampler=self._remaining,
                num_workers=s.workers,
                persistent_workers=s.workers > 0,
                worker_init_fn=_leave_signals_to_the_trainer,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator().manual_seed(s.seed),
            )
        return self._loader

    def train_mode(self) -> None:
        """Training mode, but for the batch norms where the settings freeze their statistics."""
        self.network.train()
        if self.settings.batchnorm == "frozen":
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def read(self, scalars: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Bring what is logged to the host."""
        values = {name: value.item() for name, value in scalars.items()}
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
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": rng_state(),
            "config": self.config,
        }

    def save(self) -> Path:
        """Write a checkpoint, then drop the oldest; an interrupted write leaves the previous ones alone."""
        if self.folder is None:
            raise RGBXError("this run has no folder to save checkpoints in")
        path = checkpoint_path(self.folder / "checkpoints", self.step)
        save_checkpoint(path, self.state())
        prune_checkpoints(path.parent, self.settings.keep_checkpoints)
        return path

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint file, or from the newest one in a run folder.

        Raises:
            RGBXError: there is none, it is not whole, or it does not fit; nothing is changed then.
        """
        path = find_checkpoint(path)
        state = load_checkpoint(path)
        check_module(self.network, state["network"], path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise RGBXError(
                f"{path} does not fit the configured optimizer ({error}); use the run's own configuration"
            ) from error
        self.network.load_state_dict(state["network"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.epoch, self.index = state["step"], state["epoch"], state["index"]
        set_rng_state(state["rng"])

    # ----------------------------------------------------------------- details

    def _due(self, at_end: bool, last: int) -> bool:
        every = self.settings.checkpoint_every
        return self.step >= last or (self.step % every == 0 if every else at_end)

    def _refusal(self, what: str, buffers: list[tuple[torch.Tensor, torch.Tensor]]) -> RGBXError:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        saved = checkpoints_in(self.folder / "checkpoints") if self.folder else []
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
        self._stop = False
        return _StopAfterStep(self)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches loader processes too, and the step under way still needs their data."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _StopAfterStep:
    """The first SIGINT or SIGTERM asks for a stop between two steps; the second one is obeyed at once.

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
