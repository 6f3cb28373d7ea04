"""Tracking with a trained network: frame by frame, over data sets, over a folder, and pictures of it."""

from __future__ import annotations

from tracker.inference.folder import FolderRun, track_folder
from tracker.inference.online import InferenceSettings, OnlineTracker, Result
from tracker.inference.overlay import compose_frame, write_overlay
from tracker.inference.run import Track, track_dataset, track_sequence, track_sequences

__all__ = [
    "FolderRun",
    "InferenceSettings",
    "OnlineTracker",
    "Result",
    "Track",
    "compose_frame",
    "track_dataset",
    "track_folder",
    "track_sequence",
    "track_sequences",
    "write_overlay",
]
