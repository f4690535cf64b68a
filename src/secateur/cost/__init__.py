"""Costs: parameters and multiply-accumulates as functions of which units are open."""

from secateur.cost.expected import Cost, Terms
from secateur.cost.report import breakdown

__all__ = ["Cost", "Terms", "breakdown"]
