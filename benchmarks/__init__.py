"""Benchmarks that a skeptic can rerun: ``pytest benchmarks --benchmark-only``."""
