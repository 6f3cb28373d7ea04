"""Trackers outside of PyTorch: ONNX files, and running them."""

from __future__ import annotations

from tracker.export.onnx_export import export_onnx
from tracker.inference.onnx_engine import OnnxEngine

__all__ = ["OnnxEngine", "export_onnx"]
