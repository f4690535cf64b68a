"""Prunable structure of a model, and selections of units: plain data, without torch."""

from secateur.structure.axis import Axis, Unit
from secateur.structure.block import Block
from secateur.structure.break_even import factorizations_to_merge
from secateur.structure.rows import (
    ConvStage,
    DimBinding,
    Factorization,
    FeatureSpec,
    MacTerm,
    MaskedOutput,
    MaskSite,
    PrunedNorm,
    UseCount,
    Weight,
)
from secateur.structure.selection import Selection, normalize
from secateur.structure.structure import Structure

__all__ = [
    "Axis",
    "Block",
    "DimBinding",
    "Factorization",
    "FeatureSpec",
    "PrunedNorm",
    "MaskedOutput",
    "UseCount",
    "Selection",
    "ConvStage",
    "Structure",
    "MaskSite",
    "Unit",
    "MacTerm",
    "Weight",
    "normalize",
    "factorizations_to_merge",
]
