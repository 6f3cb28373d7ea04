"""Tracking with a trained network: frame by frame, over data sets, a folder, videos, cameras; and pictures of it."""

from __future__ import annotations

from tracker.inference.engine import EagerEngine, Engine
from tracker.inference.fast import CompiledEngine, GraphEngine, make_engine
from tracker.inference.folder import FolderRun, track_folder
from tracker.inference.missing import DroppedSequence, Frame
from tracker.inference.online import InferenceSettings, OnlineTracker, Result
from tracker.inference.overlay import compose_frame, write_overlay
from tracker.inference.run import Track, track_dataset, track_sequence, track_sequences
from tracker.inference.sources import FrameSource, PairedCapture, SequenceSource
from tracker.inference.stream import track_stream

__all__ = [
    "CompiledEngine",
    "DroppedSequence",
    "EagerEngine",
    "Engine",
    "FolderRun",
    "Frame",
    "FrameSource",
    "GraphEngine",
    "InferenceSettings",
    "OnlineTracker",
    "PairedCapture",
    "Result",
    "SequenceSource",
    "Track",
    "compose_frame",
    "make_engine",
    "track_dataset",
    "track_folder",
    "track_sequence",
    "track_sequences",
    "track_stream",
    "write_overlay",
]
