"""How many frames are valid, by the library's own functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Of encoders that hear samples and of those that hear features, as the library names them.
_LENGTH_METHODS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


def frames_of(model: Any, lengths: Tensor) -> Tensor:
    """Valid frames of each row, (B,) int64, given how much is valid of what a model hears, (B,).

    Args:
        model: An encoder, with or without a task head.
        lengths: In samples, or in positions of features where the model hears those.
    """
    function = next(getattr(model, name) for name in _LENGTH_METHODS if hasattr(model, name))
    frames: Tensor = function(lengths)
    return frames.long()
