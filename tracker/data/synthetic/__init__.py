"""Generated RGB-X sequences with exact boxes, composited from real photographs; nothing is downloaded."""

from __future__ import annotations

from tracker.data.synthetic.generator import SyntheticSequence, synthetic_dataset
from tracker.data.synthetic.settings import SyntheticConfig

__all__ = ["SyntheticConfig", "SyntheticSequence", "synthetic_dataset"]
