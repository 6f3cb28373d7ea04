"""Sixteen digits that tell one network's weights from another's."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def network_fingerprint(network: nn.Module) -> str:
    """Return 16 hexadecimal digits of SHA-256 over a network's parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()[:16]
