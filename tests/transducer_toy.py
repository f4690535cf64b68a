"""Tiny transducers of the library, random in such a way that what they write is of many kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingEncoderConfig,
    NemotronAsrStreamingForRNNT,
    ParakeetEncoderConfig,
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


def transducer(*, streaming: bool = False, seed: int = 0, **fields: Any) -> Any:
    """A model in eval mode whose last token is the blank; fields of its config may be given, `durations` of a TDT."""
    fields = {"vocab_size": 12, "decoder_hidden_size": 20, "num_decoder_layers": 1, "pad_token_id": 2} | fields
    fields = {"blank_token_id": fields["vocab_size"] - 1, "max_symbols_per_step": 3} | fields
    config: Any
    if streaming:
        encoder: Any = NemotronAsrStreamingEncoderConfig(**ENCODER, sliding_window=13, default_num_lookahead_tokens=1)
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
        model.joint.head.bias[config.vocab_size :] -= 50.0  # the library takes the likeliest output for a token
    return model


def features(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Random features of a batch, with a mask where lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), MELS, generator=generator)
    if len(set(lengths)) == 1:
        return {"input_features": values}
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_features": values * mask[:, :, None], "attention_mask": mask.long()}


def frames(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Valid frames of each row."""
    values = inputs["input_features"]
    mask = inputs.get("attention_mask", torch.ones(values.shape[:2], dtype=torch.long))
    found: Tensor = model._get_subsampling_output_length(mask.sum(-1))
    return found
