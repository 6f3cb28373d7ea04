"""Both streams stay as pre-trained. Only the cross blocks that join them and X's patch embedding train."""

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
        """Run the base."""
        output: TrackerOutput = self.base(template, search)
        return output

    def merged(self) -> Tracker:
        """Return a copy of the two-stream tracker. Nothing is added to it."""
        return copy.deepcopy(self.base)
