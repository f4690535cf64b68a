"""data2vec audio: five positional convolutions with parameter-free norms."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, encoder


def declare(table: AxisTable) -> None:
    """The shared rows are all there is."""
    encoder(table)
