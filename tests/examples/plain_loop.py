"""The loop that every training stack stands in for, written out. The examples' results are compared with it."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn

import srft_kernels as srft


def train_plainly(small_task: ModuleType, *, accumulated: int = 1, clip: float | None = 1.0) -> nn.Module:
    """Return the network of the examples, after the same batches in a loop of plain torch."""
    task = small_task.make_task()
    prior = srft.estimate_prior(task.model, small_task.sample_loss, task.old_batches(), progress=False)
    batches = task.batches()
    kappa = srft.CosineKappa(total_steps=len(batches) // accumulated)
    inner = torch.optim.AdamW(task.model.named_parameters(), lr=3e-3)
    optimizer = srft.SRFT(inner, prior=prior, strength=10.0, kappa=kappa)
    for step, batch in enumerate(batches):
        (small_task.sample_loss(task.model, batch).mean() / accumulated).backward()
        if (step + 1) % accumulated == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(task.model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    model: nn.Module = task.model
    return model
