"""The compiled CUDA kernels: the host's side of ``csrc/cuda``, a file for the step, the penalty and the probes each."""

from __future__ import annotations

import torch


def current_stream(device: torch.device) -> int:
    """Return torch's current stream on a device, as the library takes it; 0 on a host that stands in for one."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
