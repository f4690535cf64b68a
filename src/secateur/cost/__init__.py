"""Costs of a structure: parameters and multiply-accumulates as functions of the open units."""

from secateur.cost.breakdown import breakdown
from secateur.cost.expected import Cost, Terms

__all__ = ["Cost", "Terms", "breakdown"]
