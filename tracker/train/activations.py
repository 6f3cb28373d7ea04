"""Activation checkpointing: a block keeps only its input, and the backward pass computes the block again.

Each block then holds one tensor instead of all its intermediate ones, and a step takes a third more computation (Chen
et al. 2016, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(network: nn.Module) -> None:
    """Let every ViT block of ``network`` recompute its activations wherever gradients are asked for.

    So does every module that says ``recomputed``: a layer of a tuning method that calls the halves of blocks itself.
    Names, weights and results do not change. The second pass draws the same random numbers (drop path) as the first.
    """
    for module in network.modules():
        if isinstance(module, Block) or getattr(module, "recomputed", False):
            module.forward = partial(_recomputed, module.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)
