"""Measured times of an architecture's blocks on the present machine, for the cost `latency`."""

from secateur.benchmarking.latency.find import load_or_measure_table

__all__ = ["load_or_measure_table"]
