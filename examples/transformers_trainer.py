"""SRFT under transformers' Trainer: hand it over with the `optimizers` argument.

    python examples/transformers_trainer.py

The model is a small one with random weights, so nothing is downloaded. Any model of the hub takes its place.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import srft_kernels as srft

WORDS, LENGTH, CLASSES = 64, 12, 4


def sentences(count: int, shift: int) -> list[dict[str, Tensor]]:
    """Sentences whose class is that of the word that they repeat; ``shift`` says which words the classes have."""
    draw = torch.Generator().manual_seed(shift)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    words = torch.randint(8, WORDS, (count, LENGTH), generator=draw)
    words[:, ::2] = (8 + shift + labels)[:, None]
    return [{"input_ids": w, "labels": y} for w, y in zip(words, labels, strict=True)]


def collated(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Some sentences as one batch."""
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def sample_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the cross-entropy of each sentence (B,)."""
    logits = model(input_ids=batch["input_ids"]).logits
    return nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


def train(steps: int = 30, **options: Any) -> tuple[nn.Module, srft.SRFT]:
    """Fine-tune with the Trainer's own loop, its clipping and its learning-rate schedule."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        num_labels=CLASSES, max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    old = sentences(64, shift=0)
    prior = srft.estimate_prior(model, sample_loss, [collated(old[:32]), collated(old[32:])], progress=False)
    inner = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    optimizer = srft.SRFT(inner, prior=prior, strength=10.0, kappa=srft.CosineKappa(total_steps=steps))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(), seed=0, **options,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=sentences(256, shift=20), optimizers=(optimizer, schedule))
        loss = trainer.train().training_loss
    print(f"transformers: {steps} steps, mean loss {loss:.3f}, penalty {float(optimizer.penalty):.3g}")
    return model, optimizer


if __name__ == "__main__":
    train()
