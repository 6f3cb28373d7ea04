"""Decides when a target counts as lost, by two thresholds on the score and by patience."""

from __future__ import annotations


class LostSignal:
    """Hysteresis: lost after ``patience`` scores in a row below ``below``, found again with one of ``above``.

    One threshold alone flickers where the score hovers about it, and single bad frames (blur, a passing occluder) are
    no loss.
    """

    def __init__(self, below: float, above: float, patience: int) -> None:
        self.below, self.above, self.patience = below, above, patience
        self.low = 0
        """Scores in a row that were below; while lost, frames since the last score of at least ``above``."""
        self.lost = False

    @property
    def frames_lost(self) -> int:
        """For how many frames the target has been lost."""
        return self.low - self.patience + 1 if self.lost else 0

    def update(self, score: float) -> bool:
        """Take in the score of one more frame and answer whether the target is lost now."""
        if score >= (self.above if self.lost else self.below):
            self.low, self.lost = 0, False
        else:
            self.low += 1
            self.lost = self.lost or self.low >= self.patience
        return self.lost
