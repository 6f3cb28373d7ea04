"""Sequences, their layouts on disk, crops, augmentation, and the pairs that a tracker is trained on."""
