"""Greedy decoding of transducers by transformers' `generate`, of whole utterances or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.errors import ConfigError, ModelError


@torch.no_grad()
def greedy(model: Any, inputs: Mapping[str, Tensor], *, lookahead: int | None = None) -> Tensor:
    """Return the greedily decoded tokens of a transducer, (B, N), each row filled up with blanks.

    Args:
        model: `ParakeetForRNNT`, `NemotronAsrStreamingForRNNT`, or a cut model of these classes.
        inputs: ``input_features``, (B, positions, width), and for padded rows ``attention_mask``, (B, positions).
        lookahead: Future frames that a streaming encoder attends to; None: as in its config.
    """
    features, mask = inputs["input_features"], inputs.get("attention_mask")
    # (B,), in feature positions
    lengths = torch.full((len(features),), features.shape[1]) if mask is None else mask.sum(-1)
    generate_kwargs: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if can_stream(model):
        generate_kwargs["num_lookahead_tokens"] = default_lookahead(model) if lookahead is None else lookahead
    return _generate_tokens(model, lengths, input_features=features, **generate_kwargs)


@torch.no_grad()
def stream(model: Any, inputs: Mapping[str, Tensor], *, lookahead: int | None = None) -> Tensor:
    """Return the tokens of a streaming transducer that decodes an utterance chunk by chunk, (1, N).

    The result equals that of `greedy` with the same lookahead on features from `pad_to_chunks`: the last chunk is
    padded with zeros, and tokens in frames past the end of the utterance are discarded.

    Args:
        model: `NemotronAsrStreamingForRNNT`, or a cut model of this class.
        inputs: ``input_features``, (1, positions, width).
        lookahead: Future frames that the encoder attends to; None: as in its config. A chunk is one frame longer.

    Raises:
        ModelError: The model cannot stream.
        ConfigError: The lookahead is below 0.
    """
    require_streaming(model)
    features = inputs["input_features"]
    lookahead = default_lookahead(model) if lookahead is None else lookahead
    if lookahead < 0:
        raise ConfigError(f"lookahead: got {lookahead}, expected 0 or more.")
    padded_features = pad_to_chunks(model, features, lookahead=lookahead)
    first, step = _chunk_sizes(model, lookahead)

    # `generate` streams, with a cache in the encoder, if its input is a generator.
    def chunks() -> Iterator[Tensor]:
        yield padded_features[:, :first]  # (1, first, width)
        for start in range(first, padded_features.shape[1], step):
            yield padded_features[:, start : start + step]

    lengths = torch.full((len(features),), features.shape[1])
    return _generate_tokens(model, lengths, input_features=chunks(), num_lookahead_tokens=lookahead)


def can_stream(model: Any) -> bool:
    """Return whether a model is a transducer with an encoder that supports chunk-wise input."""
    return hasattr(getattr(model.config, "encoder_config", None), "default_num_lookahead_tokens")


def require_streaming(model: Any) -> None:
    """Raise a ModelError for a model that cannot stream."""
    if not can_stream(model):
        raise ModelError(
            f"A {type(model).__name__} cannot stream, because it takes whole utterances; expected a transducer with a "
            "cache-aware encoder, NemotronAsrStreamingForRNNT."
        )


def default_lookahead(model: Any) -> int:
    """Return the lookahead in the config of a streaming encoder, in frames."""
    lookahead: int = model.config.encoder_config.default_num_lookahead_tokens
    return lookahead


def pad_to_chunks(model: Any, features: Tensor, *, lookahead: int) -> Tensor:
    """Return features that are padded with zeros to whole chunks of a lookahead: (1, positions, width)."""
    first, step = _chunk_sizes(model, lookahead)
    # Chunks of 25 and then 32 positions: 60 positions get (25 - 60) mod 32 = 29 zeros, for 25 + 2 · 32 = 89.
    missing = first - features.shape[1]
    return F.pad(features, (0, 0, 0, missing if missing > 0 else missing % step))


def _chunk_sizes(model: Any, lookahead: int) -> tuple[int, int]:
    """Return the feature positions of the first and of every later chunk.

    The first frame of an utterance spans one position, every later one as many as the subsampling factor. With a
    factor of 8 and a lookahead of 3, a chunk of four frames has 1 + 3 · 8 = 25 positions at first, then 4 · 8 = 32.
    """
    factor = model.config.encoder_config.subsampling_factor
    return 1 + factor * lookahead, factor * (lookahead + 1)


def _generate_tokens(model: Any, lengths: Tensor, **inputs: Any) -> Tensor:
    """Return the tokens that `generate` emits, without the start token and with blanks after the last valid frame.

    Args:
        model: Transducer.
        lengths: (B,), number of valid feature positions of each row.
        inputs: Keyword arguments of `generate`.
    """
    blank = model.config.blank_token_id
    max_symbols = model.config.max_symbols_per_step
    frames = model._get_subsampling_output_length(lengths).to(model.device)  # (B,)
    longest = int(frames.max()) + (inputs.get("num_lookahead_tokens") or 0)  # a padded last chunk has more frames
    generated = model.generate(**inputs, decoder_start_token_id=blank, max_new_tokens=max_symbols * longest)
    # A duration is the number of frames that a step advances: 1 for a blank, 0 for a token. The durations 0 0 1 0 1
    # give the frames 0 0 0 1 1: the exclusive cumulative sum.
    token_frames = generated.durations.cumsum(-1) - generated.durations  # (B, steps + 1)
    tokens: Tensor = generated.sequences.masked_fill(token_frames >= frames[:, None], blank)
    return tokens[:, 1:]
