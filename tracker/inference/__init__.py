"""Tracking with a trained network: frame by frame, over data sets, a folder, videos, cameras; and pictures of it."""

from __future__ import annotations

from tracker.inference.capture import PairedCapture
from tracker.inference.dataset_run import track_dataset, track_sequences
from tracker.inference.engine import EagerEngine, Engine
from tracker.inference.fast import CompiledEngine, GraphEngine, make_engine
from tracker.inference.folder_run import FolderRun, track_folder
from tracker.inference.frame_source import DroppedSource, FrameSource, SequenceSource
from tracker.inference.missing import DroppedSequence, Frame
from tracker.inference.online import InferenceSettings, OnlineTracker, Result
from tracker.inference.overlay import compose_frame, write_overlay
from tracker.inference.stream_run import track_stream
from tracker.inference.tracking import Track, Tracked, iterate_tracks, track_sequence

__all__ = [
    "CompiledEngine",
    "DroppedSequence",
    "DroppedSource",
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
    "Tracked",
    "compose_frame",
    "iterate_tracks",
    "make_engine",
    "track_dataset",
    "track_folder",
    "track_sequence",
    "track_sequences",
    "track_stream",
    "write_overlay",
]
