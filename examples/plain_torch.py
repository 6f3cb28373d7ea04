"""SRFT in a plain torch loop: autocast, gradient scaling, accumulation, clipping and a compiled network.

    python examples/plain_torch.py

On a GPU the same loop runs in float16 with a scaler; on a CPU autocast takes bfloat16, which needs no scaler.
"""

from __future__ import annotations

import torch
from small_task import make_task, report, sample_loss
from torch import nn

import srft_kernels as srft

ACCUMULATED = 2


def train(*, compiled: bool = False, autocast: bool = True) -> nn.Module:
    """Learn the new task, and hold what the old one rests on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task = make_task()
    model = task.model.to(device)
    prior = srft.estimate_prior(model, sample_loss, task.old_batches(), progress=False)
    batches = task.batches()
    optimizer = srft.SRFT(
        torch.optim.AdamW(model.named_parameters(), lr=3e-3),
        prior=prior,
        strength=10.0,
        kappa=srft.CosineKappa(total_steps=len(batches) // ACCUMULATED),
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches) // ACCUMULATED)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    network = torch.compile(model) if compiled else model
    for step, batch in enumerate(batches):
        with torch.autocast(device, dtype, enabled=autocast):
            loss = sample_loss(network, batch).mean() / ACCUMULATED
        scaler.scale(loss).backward()
        if (step + 1) % ACCUMULATED:
            continue
        scaler.unscale_(optimizer)  # so that the clipping sees the true size of the gradients
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
    report("plain torch", model, task)
    return model


if __name__ == "__main__":
    train()
