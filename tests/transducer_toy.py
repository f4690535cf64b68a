"""Tiny transducers of `transformers` with random weights that give varied transcripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pruning_toy import LENGTHS, write_wavs
from torch import Tensor
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingEncoder,
    NemotronAsrStreamingEncoderConfig,
    NemotronAsrStreamingFeatureExtractor,
    NemotronAsrStreamingForRNNT,
    ParakeetEncoder,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
)

MELS = 16
#: Fields of the config of a tiny encoder, 8 positions a frame.
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "subsampling_conv_channels": 8,
    "num_mel_bins": MELS,
    "conv_kernel_size": 5,
}
#: Further fields of a streaming encoder.
STREAMING = {"sliding_window": 13, "default_num_lookahead_tokens": 1}
WORDS = ("ab", "ba", "a b", "b", "aa", "b")


def transducer(*, streaming: bool = False, seed: int = 0, **fields: Any) -> Any:
    """Return a model in eval mode with the blank as last token; `durations` among the config fields makes a TDT."""
    fields = {"vocab_size": 12, "decoder_hidden_size": 20, "num_decoder_layers": 1, "pad_token_id": 2} | fields
    fields = {"blank_token_id": fields["vocab_size"] - 1, "max_symbols_per_step": 3} | fields
    config: Any
    if streaming:
        encoder: Any = NemotronAsrStreamingEncoderConfig(**ENCODER, **STREAMING)
        config = NemotronAsrStreamingConfig(encoder_config=encoder, **fields)
    else:
        encoder = ParakeetEncoderConfig(**ENCODER)
        config = (ParakeetTDTConfig if "durations" in fields else ParakeetRNNTConfig)(encoder_config=encoder, **fields)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        offline = ParakeetForTDT if "durations" in fields else ParakeetForRNNT
        model: Any = (NemotronAsrStreamingForRNNT if streaming else offline)(config).eval()
        for value in model.parameters():
            if value.dim() > 1:
                value.normal_(0.0, 1.5 * value[0].numel() ** -0.5)
        model.joint.head.weight.mul_(2.0)
        model.decoder.decoder_projector.weight.mul_(6.0)
        model.joint.head.bias.zero_()[min(config.blank_token_id, config.vocab_size - 1)] += 2.0
        model.joint.head.bias[config.vocab_size :] -= (
            50.0  # durations must not be the most probable output, which the library decodes as a token
        )
    return model


def features(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random features of a batch, with a mask if lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), MELS, generator=generator)
    if len(set(lengths)) == 1:
        return {"input_features": values}
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_features": values * mask[:, :, None], "attention_mask": mask.long()}


def frames(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the number of valid frames of each row."""
    values = inputs["input_features"]
    mask = inputs.get("attention_mask", torch.ones(values.shape[:2], dtype=torch.long))
    result: Tensor = model._get_subsampling_output_length(mask.sum(-1))
    return result


def write_encoders(root: Path, *, texts: Mapping[int, str]) -> Path:
    """Write two encoders without heads, `offline` and `streaming`, and `speech/manifest.jsonl`; return the folder.

    Args:
        root: The folder.
        texts: Texts by index of the recording, instead of the words in `WORDS`.
    """
    torch.manual_seed(0)
    ParakeetEncoder(ParakeetEncoderConfig(**ENCODER)).save_pretrained(root / "offline")
    ParakeetFeatureExtractor(feature_size=MELS).save_pretrained(root / "offline")
    streaming = NemotronAsrStreamingEncoderConfig(**ENCODER, **STREAMING)
    NemotronAsrStreamingEncoder(streaming).save_pretrained(root / "streaming")
    NemotronAsrStreamingFeatureExtractor(feature_size=MELS).save_pretrained(root / "streaming")
    speech = write_wavs(root / "speech")
    lines = [
        {"audio": f"u{i:02}.wav", "text": texts.get(i, WORDS[i % 6]), "split": ("train", "dev")[i % 4 == 3]}
        for i, _ in enumerate(LENGTHS)
    ]
    (speech / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root
