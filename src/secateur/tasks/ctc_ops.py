"""CTC on logits and token ids: loss, greedy decoding, and the fewest frames for a token sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


def loss_sum(logits: Tensor, frames: Tensor, target_tokens: Sequence[Sequence[int]], *, blank: int) -> Tensor:
    """Return the summed negative log-likelihood of token sequences, a scalar in float32 or better.

    The loss is infinite where a sequence needs more frames than its row has; see `min_frames`.

    Args:
        logits: (B, T, V).
        frames: (B,), number of valid frames of each row.
        target_tokens: B sequences of token ids without blanks.
        blank: Id of the blank.

    Source: Graves et al., ICML 2006.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = logits.log_softmax(-1, dtype=dtype).transpose(0, 1)  # (B, T, V) -> (T, B, V)
    # F.ctc_loss takes the sequences concatenated: tokens 5 7 and 3 are 5 7 3 with the lengths 2 1.
    device = logits.device
    lengths = torch.tensor([len(tokens) for tokens in target_tokens], device=device)
    flat_tokens = torch.tensor([token for tokens in target_tokens for token in tokens], dtype=torch.long, device=device)
    with torch.autocast(device.type, enabled=False):
        losses = F.ctc_loss(log_probabilities, flat_tokens, frames.to(device), lengths, blank=blank, reduction="none")
    return losses.sum()


def min_frames(tokens: Sequence[int]) -> int:
    """Return the frames of the shortest path: a token each and a blank between equal neighbors, 4 for ``a b b``."""
    return len(tokens) + sum(token == next_token for token, next_token in pairwise(tokens))


def greedy_decode(logits: Tensor, frames: Tensor, *, blank: int) -> list[list[int]]:
    """Return the most likely token of every valid frame, with repeats collapsed, then blanks removed.

    Example: with the blank ``_`` the best tokens ``a a _ a b b _`` collapse to ``a _ a b _`` and give ``a a b``.

    Args:
        logits: (B, T, V).
        frames: (B,), number of valid frames of each row.
        blank: Id of the blank.
    """
    best_tokens = logits.argmax(-1).cpu()  # (B, T)
    # (T,) -> (runs of equal tokens,) for each row
    rows = (torch.unique_consecutive(row[:valid]) for row, valid in zip(best_tokens, frames.tolist(), strict=True))
    return [[token for token in row.tolist() if token != blank] for row in rows]
