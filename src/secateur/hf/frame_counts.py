"""Numbers of valid frames, computed by functions of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Methods of transformers: of encoders that take samples, and of encoders that take features.
_LENGTH_METHODS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


def frames_of(model: Any, lengths: Tensor) -> Tensor:
    """Return the number of valid frames of each row, (B,) int64.

    Args:
        model: An encoder, with or without a task head.
        lengths: Valid samples, or positions of features if the model takes features, of each row, (B,).
    """
    function = next(getattr(model, name) for name in _LENGTH_METHODS if hasattr(model, name))
    frames: Tensor = function(lengths)
    return frames.long()
