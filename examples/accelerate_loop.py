"""SRFT under Hugging Face Accelerate.

    accelerate launch examples/accelerate_loop.py      (or plain python)

`prepare` wraps the optimizer as it wraps any other. The prior is estimated before, on the bare network.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from small_task import make_task, report, sample_loss
from torch import nn

import srft_kernels as srft


def train(accumulated: int = 2) -> nn.Module:
    """Learn the new task with gradients accumulated and clipped by Accelerate."""
    accelerator = Accelerator(gradient_accumulation_steps=accumulated)
    task = make_task()
    model = task.model
    prior = srft.estimate_prior(model, sample_loss, task.old_batches(), progress=False)
    batches = task.batches()
    kappa = srft.CosineKappa(total_steps=len(batches) // accumulated)
    inner = torch.optim.AdamW(model.named_parameters(), lr=3e-3)
    optimizer = srft.SRFT(inner, prior=prior, strength=10.0, kappa=kappa)
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in batches:
        with accelerator.accumulate(model):
            on_device = tuple(part.to(accelerator.device) for part in batch)
            accelerator.backward(sample_loss(model, on_device).mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    trained: nn.Module = accelerator.unwrap_model(model).cpu()
    if accelerator.is_main_process:
        report("accelerate", trained, task)
    return trained


if __name__ == "__main__":
    train()
