"""Greedy decoding of transducers by the library's own `generate`, of whole utterances or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.errors import ConfigError, ModelError


@torch.no_grad()
def greedy(model: Any, inputs: Mapping[str, Tensor], *, lookahead: int | None = None) -> Tensor:
    """Tokens that a transducer writes, (B, N), with the blank behind the last of each row.

    Args:
        model: `ParakeetForRNNT`, `NemotronAsrStreamingForRNNT`, or a cut one.
        inputs: ``input_features``, (B, positions, width); where rows are padded ``attention_mask``, (B, positions).
        lookahead: Frames that a streaming encoder hears ahead; None: as many as its config says.
    """
    features, mask = inputs["input_features"], inputs.get("attention_mask")
    lengths = torch.full((len(features),), features.shape[1]) if mask is None else mask.sum(-1)
    generate_kwargs: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if can_stream(model):
        generate_kwargs["num_lookahead_tokens"] = default_lookahead(model) if lookahead is None else lookahead
    return _generate_tokens(model, lengths, input_features=features, **generate_kwargs)


@torch.no_grad()
def stream(model: Any, inputs: Mapping[str, Tensor], *, lookahead: int | None = None) -> Tensor:
    """Tokens that a streaming transducer writes while it hears one utterance chunk by chunk: (1, N).

    The same as `greedy` with the same lookahead gives of `whole_chunks`: the last chunk is filled up with zeros, and
    what is written in frames behind the utterance's last is left out.

    Args:
        model: `NemotronAsrStreamingForRNNT`, or a cut one.
        inputs: ``input_features``, (1, positions, width).
        lookahead: Frames that are heard ahead, None: as many as its config says; a chunk is one frame longer.

    Raises:
        ModelError: The model cannot stream.
        ConfigError: The lookahead is below 0.
    """
    require_streaming(model)
    features = inputs["input_features"]
    lookahead = default_lookahead(model) if lookahead is None else lookahead
    if lookahead < 0:
        raise ConfigError(f"lookahead: got {lookahead}, allowed is 0 or more.")
    padded_features = pad_to_chunks(model, features, lookahead=lookahead)
    first, step = _chunk_sizes(model, lookahead)

    def chunks() -> Iterator[Tensor]:
        yield padded_features[:, :first]
        for start in range(first, padded_features.shape[1], step):
            yield padded_features[:, start : start + step]

    lengths = torch.full((len(features),), features.shape[1])
    return _generate_tokens(model, lengths, input_features=chunks(), num_lookahead_tokens=lookahead)


def can_stream(model: Any) -> bool:
    """Whether a model is a transducer whose encoder can hear an utterance chunk by chunk."""
    return hasattr(getattr(model.config, "encoder_config", None), "default_num_lookahead_tokens")


def require_streaming(model: Any) -> None:
    """Raise a ModelError for a model that cannot stream."""
    if not can_stream(model):
        raise ModelError(
            f"A {type(model).__name__} cannot stream: it hears whole utterances; allowed is a transducer with a "
            "cache-aware encoder, NemotronAsrStreamingForRNNT."
        )


def default_lookahead(model: Any) -> int:
    """Frames that a streaming encoder hears ahead where nothing else is said."""
    lookahead: int = model.config.encoder_config.default_num_lookahead_tokens
    return lookahead


def pad_to_chunks(model: Any, features: Tensor, *, lookahead: int) -> Tensor:
    """Features with zeros behind them, so that chunks of a lookahead cover them: (1, positions, width)."""
    first, step = _chunk_sizes(model, lookahead)
    missing = first - features.shape[1]
    return F.pad(features, (0, 0, 0, missing if missing > 0 else missing % step))


def _chunk_sizes(model: Any, lookahead: int) -> tuple[int, int]:
    """Positions of the first chunk, whose first frame hears one alone, and of every other."""
    factor = model.config.encoder_config.subsampling_factor
    return 1 + factor * lookahead, factor * (lookahead + 1)


def _generate_tokens(model: Any, lengths: Tensor, **inputs: Any) -> Tensor:
    """What `generate` writes in the frames of so many positions, (B,), without what it begins with."""
    blank, max_symbols = model.config.blank_token_id, model.config.max_symbols_per_step
    frames = model._get_subsampling_output_length(lengths).to(model.device)
    longest = int(frames.max()) + (inputs.get("num_lookahead_tokens") or 0)  # a last chunk may reach beyond
    generated = model.generate(**inputs, decoder_start_token_id=blank, max_new_tokens=max_symbols * longest)
    token_frames = generated.durations.cumsum(-1) - generated.durations  # (B, steps + 1), the frame of each token
    tokens: Tensor = generated.sequences.masked_fill(token_frames >= frames[:, None], blank)
    return tokens[:, 1:]
