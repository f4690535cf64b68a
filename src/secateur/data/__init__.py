"""Speech input: manifest readers, audio decoding, batches and synthetic speech.

Public names are imported lazily, on first use. `collate` is the name of a module and of its function, so the function
is imported from `secateur.data.collate`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.data.batches import Batches, Crop, split_micro_batches
    from secateur.data.collate import AudioBatch
    from secateur.data.corpus import SAMPLE_RATE, Corpus, Skip, Utterance
    from secateur.data.open import open_corpus
    from secateur.data.sources import (
        CsvData,
        DataConfig,
        DatasetsData,
        FluentSpeechCommandsData,
        FolderData,
        JsonlData,
        LibriSpeechData,
        SlurpData,
        SpeechCommandsData,
        SyntheticData,
        TsvData,
    )

_MODULES = {
    "AudioBatch": "collate",
    "Batches": "batches",
    "Corpus": "corpus",
    "Crop": "batches",
    "CsvData": "sources",
    "DataConfig": "sources",
    "DatasetsData": "sources",
    "FluentSpeechCommandsData": "sources",
    "FolderData": "sources",
    "JsonlData": "sources",
    "LibriSpeechData": "sources",
    "SAMPLE_RATE": "corpus",
    "Skip": "corpus",
    "SlurpData": "sources",
    "SpeechCommandsData": "sources",
    "SyntheticData": "sources",
    "TsvData": "sources",
    "Utterance": "corpus",
    "open_corpus": "open",
    "split_micro_batches": "batches",
}

__all__ = [
    "AudioBatch",
    "Batches",
    "Corpus",
    "Crop",
    "CsvData",
    "DataConfig",
    "DatasetsData",
    "FluentSpeechCommandsData",
    "FolderData",
    "JsonlData",
    "LibriSpeechData",
    "SAMPLE_RATE",
    "Skip",
    "SlurpData",
    "SpeechCommandsData",
    "SyntheticData",
    "TsvData",
    "Utterance",
    "open_corpus",
    "split_micro_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
