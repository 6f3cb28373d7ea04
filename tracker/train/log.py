"""The log of a run: TensorBoard scalars, and a progress bar with the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tracker.files import write_error


class ScalarLog:
    """The TensorBoard scalars of one run. What the folder already holds of ``first_step`` and later is discarded."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        # Imported here: it takes a second, which `rgbx --help` need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder), purge_step=first_step)
        except OSError as error:
            raise write_error(error, folder) from error

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise write_error(error, self.folder) from error

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise write_error(error, self.folder) from error


def progress(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    title: str = "",
    initial: int = 0,
    unit: str = "it",
    shown: bool = True,
) -> tqdm[Any]:
    """Make a progress bar on stderr, with rate and time left. One process of a run has it ``shown``."""
    return tqdm(
        items,
        total=total,
        desc=title,
        initial=initial,
        unit=unit,
        disable=not shown,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        smoothing=0.1,
    )
