"""SRFT under Lightning, in bfloat16 mixed precision with gradients that Lightning clips.

python examples/lightning_module.py
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from small_task import SmallTask, make_task, report, sample_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader

import srft_kernels as srft


class FineTuning(lightning.LightningModule):
    """A network and its optimizer, as Lightning wants them."""

    def __init__(self, task: SmallTask) -> None:
        super().__init__()
        self.network = task.model
        self.prior = srft.estimate_prior(task.model, sample_loss, task.old_batches(), progress=False)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return sample_loss(self.network, batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        inner = torch.optim.AdamW(self.network.named_parameters(), lr=3e-3)
        kappa = srft.CosineKappa(total_steps=int(self.trainer.estimated_stepping_batches))
        return srft.SRFT(inner, prior=self.prior, strength=10.0, kappa=kappa)


def train(precision: Any = "bf16-mixed") -> nn.Module:
    """Learn the new task in Lightning's own loop."""
    task = make_task()
    module = FineTuning(task)
    trainer = lightning.Trainer(
        max_epochs=1,
        precision=precision,
        gradient_clip_val=1.0,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(task.batches(), batch_size=None))
    trained = module.network.cpu()
    report("lightning", trained, task)
    return trained


if __name__ == "__main__":
    train()
