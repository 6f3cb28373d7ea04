"""The host side of the compiled CUDA kernels in ``csrc/cuda``: a file each for the step, the penalty and the probes."""

from __future__ import annotations

import torch


def current_stream(device: torch.device) -> int:
    """Return torch's current stream on a device, as the library takes it, or 0 if the CPU stands in for a device."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
