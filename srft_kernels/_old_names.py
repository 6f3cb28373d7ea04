"""Names of :class:`.SRFT` in earlier versions. Each still works, and says what it is called now."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor


class OldNames:
    """The old names, for :class:`.SRFT` to inherit."""

    if TYPE_CHECKING:  # what SRFT has

        @property
        def nonfinite_count(self) -> Tensor: ...

        def prepare_replay(self) -> None: ...

        def _record_paths(self, paths: dict[Tensor, Tensor] | None) -> bool: ...

    @property
    def nonfinite(self) -> Tensor:
        """The old name of ``nonfinite_count``."""
        _deprecated("optimizer.nonfinite", "optimizer.nonfinite_count")
        return self.nonfinite_count

    def advance(self) -> None:
        """Do what ``prepare_replay`` does, of which this is the old name."""
        _deprecated("optimizer.advance()", "optimizer.prepare_replay()")
        self.prepare_replay()

    def follow(self, paths: dict[Tensor, Tensor] | None) -> bool:
        """Do what :class:`PathIntegral` calls, under its old name."""
        _deprecated("optimizer.follow()", "PathIntegral(optimizer)")
        return self._record_paths(paths)


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
