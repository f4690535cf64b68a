"""Measured times of an architecture's blocks on this machine, for the cost `latency`."""

from secateur.evaluate.latency.find import table_for

__all__ = ["table_for"]
