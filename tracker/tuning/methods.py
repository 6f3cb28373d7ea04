"""The tuning methods by the names that a configuration calls them by."""

from __future__ import annotations

from tracker.tuning.adapters import Adapters
from tracker.tuning.base import TunedTracker
from tracker.tuning.distill import Student
from tracker.tuning.frozen import Frozen
from tracker.tuning.lora import LoRA
from tracker.tuning.patrack import PATrack
from tracker.tuning.sdstrack import SDSTrack

METHODS: dict[str, type[TunedTracker]] = {
    method.method: method for method in (Frozen, LoRA, Adapters, SDSTrack, PATrack, Student)
}
"""All but ``full``, which wraps nothing: the two-stream tracker with every group trained."""
