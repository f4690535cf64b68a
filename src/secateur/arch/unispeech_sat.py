"""UniSpeech-SAT."""

from __future__ import annotations

from secateur.arch.blocks import Table, encoder


def declare(table: Table) -> None:
    """The shared rows are all there is."""
    encoder(table)
