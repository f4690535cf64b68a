"""SpecAugment: masked stretches of time and of features, drawn for each utterance from its valid frames.

The library's own draws are not used: HuBERT's takes padding for frames, WavLM's of features asks for a config field
that it lacks, all refuse a batch that is shorter than a mask, and all depend on how utterances are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.compress.config import RegularizationConfig
from secateur.tasks.best_rq import span_mask

# What a draw is for, the first part of its key: 0 and 1 are of the noise that BEST-RQ hides frames by.
_TIME_KEY, _FEATURES_KEY = 2, 3

#: The method of the library's encoders that masks what their layers get.
MASK_METHOD = "_mask_hidden_states"


class SpecMasks(NamedTuple):
    """Masks of one micro-batch, True where masked; None where nothing of the kind is."""

    time: Tensor | None
    """(B, T), put the mask vector of the encoder in place of these frames"""
    features: Tensor | None
    """(B, D), zero these features in every frame"""


NO_MASKS = SpecMasks(None, None)


def draw_masks(
    settings: RegularizationConfig, keys: Sequence[Sequence[int]], frames: Sequence[int], *, width: int
) -> SpecMasks:
    """Return the masks of a micro-batch, those of each row a function of its key alone.

    The expected masked share of the valid frames of a row, and of its features, is the one asked for, whatever it is
    batched with; padding is never masked.

    Args:
        settings: Shares and lengths.
        keys: Of the rows, whole numbers from 0 on.
        frames: Valid frames of the rows, each at least 1.
        width: Features of a frame, D.
    """
    time = features = None
    if settings.time_masks:
        time = torch.zeros(len(frames), max(frames), dtype=torch.bool)
        for row, key, count in zip(time, keys, frames, strict=True):
            span = time_span(settings, count)
            row[:count] = _draw_spans(settings.time_masks, span, count, (_TIME_KEY, *key))
    if settings.feature_masks:
        span = settings.feature_mask_length
        features = torch.stack(
            [_draw_spans(settings.feature_masks, span, width, (_FEATURES_KEY, *key)) for key in keys]
        )
    return SpecMasks(time, features)


def time_span(settings: RegularizationConfig, frames: int) -> int:
    """Return the length of the time masks of an utterance, at most half of it, so that one mask never hides it all."""
    return max(1, min(settings.time_mask_length, frames // 2))


def install_masking(base: Any) -> None:
    """Make an encoder mask what `set_masks` gives it, and nothing else, in place of the library's own draws."""
    if hasattr(base, MASK_METHOD):
        setattr(base, MASK_METHOD, MethodType(_apply_masks, base))
        set_masks(base, NO_MASKS)


def has_masking(base: Any) -> bool:
    """Return whether `mask_from_here` was called with this encoder."""
    return MASK_METHOD in vars(base)


def remove_masking(base: Any) -> None:
    """Undo `mask_from_here`."""
    if has_masking(base):
        delattr(base, MASK_METHOD)
        del base.spec_masks


def set_masks(base: Any, masks: SpecMasks) -> None:
    """Set the masks of an encoder's next pass; an encoder that masks nothing has none."""
    if has_masking(base):
        base.spec_masks = masks


def _draw_spans(share: float, span: int, count: int, key: Sequence[int]) -> Tensor:
    """Return a mask of `count` places, (count,) of booleans."""
    rng = np.random.default_rng(key)
    return torch.from_numpy(span_mask(batch=1, frames=count, share=share, span=span, rng=rng)[0])


def _apply_masks(
    base: Any, hidden: Tensor, mask_time_indices: None = None, attention_mask: Tensor | None = None
) -> Tensor:
    """Return masked hidden states, (B, T, D): the method of the library's classes, and with its arguments."""
    assert mask_time_indices is None, "masks are set before a pass, not given with it"
    time, features = base.spec_masks
    if time is not None:
        # A front end may give a frame or two of padding behind the last valid one.
        padded_mask = F.pad(time.to(hidden.device), (0, hidden.shape[1] - time.shape[1]))
        hidden = torch.where(padded_mask[..., None], base.masked_spec_embed.to(hidden.dtype), hidden)
    if features is not None:
        hidden = hidden.masked_fill(features.to(hidden.device)[:, None], 0.0)
    return hidden
