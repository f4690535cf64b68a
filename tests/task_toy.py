"""Small corpora with texts, labels and tags; logits that say a given sequence; a folder with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer

from secateur.data.corpus import Corpus, Utterance

#: Fields of the config of a tiny encoder, 80 samples a frame.
TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": (6, 6),
    "conv_kernel": (10, 3),
    "conv_stride": (10, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def corpus_of(*rows: dict[str, Any]) -> Corpus:
    """A corpus of silent seconds, one for each row of `Utterance` fields."""
    utterances = (
        Utterance(**({"id": str(i), "path": f"{i}.wav", "samples": 16_000} | row)) for i, row in enumerate(rows)
    )
    return Corpus("toy", tuple(utterances), (), lambda utterance: np.zeros(utterance.samples, np.float32))


def texts(*transcripts: str | None) -> Corpus:
    """A corpus of these texts."""
    return corpus_of(*({"text": text} for text in transcripts))


def frames_of(samples: int) -> int:
    """Frames of 20 ms."""
    return samples // 320


def bare(**fields: Any) -> Any:
    """The config of an encoder without a task head."""
    return Wav2Vec2Config(**fields)


def saying(rows: Sequence[Sequence[int]], outputs: int) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) whose likeliest path is each row, and the rows' lengths (B,); noise behind them."""
    lengths = torch.tensor([len(row) for row in rows])
    logits = torch.randn(len(rows), int(lengths.max()) + 2, outputs)
    for index, row in enumerate(rows):
        for frame, token in enumerate(row):
            logits[index, frame, token] = 9.0
    return logits, lengths


def spaced(tokens: Sequence[int], blank: int = 0) -> list[int]:
    """A path through tokens: each for two frames, then a blank."""
    return [item for token in tokens for item in (token, token, blank)]


def tokenizer_folder(folder: Path, tokens: Sequence[str], **options: Any) -> Path:
    """A folder with a tokenizer of these tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    options = {"bos_token": None, "eos_token": None} | options
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options).save_pretrained(folder)
    return folder
