"""data2vec audio: five positional convolutions with parameter-free norms."""

from __future__ import annotations

from secateur.architectures.blocks import Table, encoder


def declare(table: Table) -> None:
    """The shared rows are all there is."""
    encoder(table)
