"""Small corpora with texts, labels and tags, logits with a given best path, and a folder with a tokenizer."""

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
    """Return a corpus with a second of silence for each row of `Utterance` fields."""
    utterances = (
        Utterance(**({"id": str(i), "path": f"{i}.wav", "samples": 16_000} | row)) for i, row in enumerate(rows)
    )
    return Corpus("toy", tuple(utterances), (), lambda utterance: np.zeros(utterance.samples, np.float32))


def corpus_of_texts(*transcripts: str | None) -> Corpus:
    """Return a corpus with a second of silence for each text."""
    return corpus_of(*({"text": text} for text in transcripts))


def frames_of(samples: int) -> int:
    """Return the number of frames of 20 ms."""
    return samples // 320


def encoder_config(**fields: Any) -> Any:
    """Return the config of an encoder without a task head."""
    return Wav2Vec2Config(**fields)


def logits_of_paths(rows: Sequence[Sequence[int]], outputs: int) -> tuple[Tensor, Tensor]:
    """Return logits, (batch, frames, outputs), with `rows` as best paths and noise after, and lengths, (batch,)."""
    lengths = torch.tensor([len(row) for row in rows])
    logits = torch.randn(len(rows), int(lengths.max()) + 2, outputs)
    for index, row in enumerate(rows):
        for frame, token in enumerate(row):
            logits[index, frame, token] = 9.0
    return logits, lengths


def ctc_path(tokens: Sequence[int], blank: int = 0) -> list[int]:
    """Return a CTC path of tokens, with two frames and a blank for each: [1, 2] becomes [1, 1, 0, 2, 2, 0]."""
    return [item for token in tokens for item in (token, token, blank)]


def tokenizer_folder(folder: Path, tokens: Sequence[str], **options: Any) -> Path:
    """Write a tokenizer of these tokens, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    options = {"bos_token": None, "eos_token": None} | options
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options).save_pretrained(folder)
    return folder
