"""Measurements whose results are kept as JSON in ``benchmarks/results``; run them by ``make bench``."""
