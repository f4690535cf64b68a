"""SpecAugment (Park et al. 2019, arXiv 1904.08779): masks of time and features behind the front end.

Differs from the masks in transformers, which count padding as frames (HuBERT), read a config field that is missing
(features in WavLM), reject a batch shorter than a mask, and depend on how utterances are batched.
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

# First part of the random key of a draw; 0 and 1 belong to the noise masks of BEST-RQ.
_TIME_KEY, _FEATURES_KEY = 2, 3

#: The method of encoders in transformers that masks the hidden states in front of the layers.
MASK_METHOD = "_mask_hidden_states"


class SpecMasks(NamedTuple):
    """Masks of time and of features of a micro-batch, True where masked; null for no masks."""

    time: Tensor | None
    """(B, T), frames to replace by the mask vector of the encoder"""
    features: Tensor | None
    """(B, D), features to set to zero in every frame"""


NO_MASKS = SpecMasks(None, None)


def draw_masks(
    settings: RegularizationConfig, keys: Sequence[Sequence[int]], frames: Sequence[int], *, width: int
) -> SpecMasks:
    """Return the masks of a micro-batch.

    The masks of a row are a function of the key of the row, independent of the other rows. The expected masked share of
    valid frames and of features is the share in the settings; padding is never masked.

    Args:
        settings: Shares and lengths of masks.
        keys: Random keys of the rows, integers >= 0.
        frames: Number of valid frames of each row, >= 1.
        width: Number of features of a frame, D.
    """
    time = features = None
    if settings.time_masks:
        time = torch.zeros(len(frames), max(frames), dtype=torch.bool)
        # `row` is a view, so that writing into it fills `time`.
        for row, key, count in zip(time, keys, frames, strict=True):
            span = time_span(settings, count)
            row[:count] = _draw_spans(settings.time_masks, span, count, (_TIME_KEY, *key))
    if settings.feature_masks:
        span = settings.feature_mask_length
        rows = [_draw_spans(settings.feature_masks, span, width, (_FEATURES_KEY, *key)) for key in keys]
        features = torch.stack(rows)  # (D,) each -> (B, D)
    return SpecMasks(time, features)


def time_span(settings: RegularizationConfig, frames: int) -> int:
    """Return the length of the time masks of an utterance, at most half of the frames."""
    return max(1, min(settings.time_mask_length, frames // 2))  # 15 frames, masks of 10: 7


def install_masking(base: Any) -> None:
    """Make an encoder use the masks from `set_masks` in place of masks drawn by transformers."""
    if hasattr(base, MASK_METHOD):
        setattr(base, MASK_METHOD, MethodType(_apply_masks, base))
        set_masks(base, NO_MASKS)


def has_masking(base: Any) -> bool:
    """Return whether `install_masking` was called with the encoder."""
    return MASK_METHOD in vars(base)


def remove_masking(base: Any) -> None:
    """Undo `install_masking`."""
    if has_masking(base):
        # Without the attribute of the instance, the method of the class is found again.
        delattr(base, MASK_METHOD)
        del base.spec_masks


def set_masks(base: Any, masks: SpecMasks) -> None:
    """Set the masks of the next pass of an encoder; without effect on an encoder without `install_masking`."""
    if has_masking(base):
        base.spec_masks = masks


def _draw_spans(share: float, span: int, count: int, key: Sequence[int]) -> Tensor:
    """Return a mask of spans over `count` frames or features: (count,) of booleans."""
    rng = np.random.default_rng(key)
    # (1, count) -> (count,)
    return torch.from_numpy(span_mask(batch=1, frames=count, share=share, span=span, rng=rng)[0])


def _apply_masks(
    base: Any, hidden: Tensor, mask_time_indices: None = None, attention_mask: Tensor | None = None
) -> Tensor:
    """Return masked hidden states, (B, T, D); replaces a method of transformers, with the same arguments."""
    assert mask_time_indices is None, "masks are set before a pass, not given with it"
    time, features = base.spec_masks
    if time is not None:
        # A front end may give a frame or two of padding behind the longest row: (B, T valid) -> (B, T).
        padded_mask = F.pad(time.to(hidden.device), (0, hidden.shape[1] - time.shape[1]))
        # (B, T, 1), (D,), (B, T, D) -> (B, T, D)
        hidden = torch.where(padded_mask[..., None], base.masked_spec_embed.to(hidden.dtype), hidden)
    if features is not None:
        # (B, 1, D): the same features in all frames
        hidden = hidden.masked_fill(features.to(hidden.device)[:, None], 0.0)
    return hidden
