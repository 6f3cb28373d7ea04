"""Training: pre-training, fine-tuning, prior significance, checkpoints and validation."""
