"""Significance-regularized fine-tuning (arXiv 2508.17488) as fused kernels behind a torch optimizer wrapper."""
