"""Ratios that the course promises, measured by `python -m benchmarks`."""
