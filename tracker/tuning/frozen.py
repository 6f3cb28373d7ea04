"""Both streams as pre-trained: only what joins them trains, and how X becomes patches."""

from __future__ import annotations

import copy

from torch import Tensor

from tracker.config import TUNED_GROUPS
from tracker.models.tracker import Tracker, TrackerOutput
from tracker.tuning.base import TunedTracker


class Frozen(TunedTracker):
    """The baseline of all adapters: cross blocks and X's patch embedding train, and no weight of the two streams."""

    method = "frozen"
    base_kind = "two_stream"
    trains = TUNED_GROUPS["frozen"]

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Return as the base's."""
        output: TrackerOutput = self.base(template, search)
        return output

    def merged(self) -> Tracker:
        """Return the two-stream tracker itself, a copy: nothing is added to it."""
        return copy.deepcopy(self.base)
