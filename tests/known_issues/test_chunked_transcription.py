"""Long audio in chunks: `transformers.pipeline` joins them by a field that the configs of FastConformers lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import tiny_config
from task_toy import tokenizer_folder

from secateur.structure import Selection
from secateur.structure import axis as names
from secateur.surgery import cut

SECONDS = 4


def frames(model: Any, tokenizer: Any) -> int:
    """Frames that are left of audio of some seconds, chunk by chunk, without what overlaps."""
    pipe = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=transformers.ParakeetFeatureExtractor(feature_size=16),
    )
    audio = np.random.default_rng(0).standard_normal(SECONDS * 16_000).astype(np.float32)
    count = 0
    for chunk in pipe.preprocess(audio, chunk_length_s=2):
        result = pipe._forward(dict(chunk))
        length, remaining, right = result["stride"]
        count += result["tokens"][0, remaining : length - right].numel()
    return count


@pytest.mark.parametrize("layout", ["registered", "stock"])
def test_chunks_of_a_cut_parakeet_are_joined_without_loss(tmp_path: Path, layout: Any) -> None:
    config = transformers.ParakeetCTCConfig(
        encoder_config=tiny_config("parakeet_encoder", "base"), vocab_size=9, pad_token_id=2
    )
    with torch.random.fork_rng(devices=[]):
        dense = transformers.ParakeetForCTC(config).eval()
    heads = {names.heads("layers.1.self_attn"): (0, 2)} if layout == "registered" else {}
    cut(dense, Selection(axes=heads), layout=layout).save_pretrained(tmp_path / "cut")
    small = transformers.AutoModelForCTC.from_pretrained(tmp_path / "cut")
    folder = tokenizer_folder(tmp_path / "tokens", ["<pad>", "<unk>", "|", *"abcdef"])
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert small.config.inputs_to_logits_ratio == 160 * 8
    assert frames(small, tokenizer) == SECONDS * 16_000 // 1280
    assert frames(dense, tokenizer) < SECONDS * 16_000 // 1280  # else the library has mended it
