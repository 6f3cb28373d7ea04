"""SRFT with PEFT: the adapters learn freely, and the weights that train beside them are held.

    python examples/peft_lora.py

LoRA adapts two layers, and the last layer trains whole (`modules_to_save`). The prior holds the last layer: only
that has old knowledge. The adapters start at zero and have no prior, so nothing but their learning rate holds them.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from small_task import make_task, report, sample_loss
from torch import nn

import srft_kernels as srft


def train() -> nn.Module:
    """Learn the new task through adapters and the last layer."""
    task = make_task()
    prior = srft.estimate_prior(task.model, sample_loss, task.old_batches(), progress=False)
    model = get_peft_model(task.model, LoraConfig(r=4, target_modules=["0", "3"], modules_to_save=["5"]))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # PEFT gives the copy of the last layer that trains another name.
    held = {name: prior[f"5.{name.rsplit('.', 1)[1]}"] for name, _ in trained if "modules_to_save" in name}
    batches = task.batches()
    kappa = srft.CosineKappa(total_steps=len(batches))
    optimizer = srft.SRFT(torch.optim.AdamW(trained, lr=3e-3), prior=held, strength=10.0, kappa=kappa)
    for batch in batches:
        optimizer.zero_grad()
        sample_loss(model, batch).mean().backward()
        optimizer.step()
    report("peft", model, task)
    return model


if __name__ == "__main__":
    train()
