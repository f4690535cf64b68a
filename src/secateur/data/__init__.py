"""Speech in: manifest readers, decoding, batches, synthetic speech. Names load when they are used.

`collate` is both a file and its function, so the function is imported from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.data.batches import Batches, Crop, share
    from secateur.data.collate import AudioBatch
    from secateur.data.config import (
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
    from secateur.data.corpus import SAMPLE_RATE, Corpus, Skip, Utterance
    from secateur.data.open import open_corpus

_HOME = {
    "AudioBatch": "collate",
    "Batches": "batches",
    "Corpus": "corpus",
    "Crop": "batches",
    "CsvData": "config",
    "DataConfig": "config",
    "DatasetsData": "config",
    "FluentSpeechCommandsData": "config",
    "FolderData": "config",
    "JsonlData": "config",
    "LibriSpeechData": "config",
    "SAMPLE_RATE": "corpus",
    "Skip": "corpus",
    "SlurpData": "config",
    "SpeechCommandsData": "config",
    "SyntheticData": "config",
    "TsvData": "config",
    "Utterance": "corpus",
    "open_corpus": "open",
    "share": "batches",
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
    "share",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
