"""Costs: parameters and multiply-accumulates as functions of which units are open."""

from secateur.cost.breakdown import breakdown
from secateur.cost.expected import Cost, Terms

__all__ = ["Cost", "Terms", "breakdown"]
