"""Benchmarks that a sceptic can rerun: ``pytest benchmarks --benchmark-only``."""
