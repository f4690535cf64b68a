"""CTC on logits and token numbers: the loss, greedy reading, and how many frames a script needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


def loss_sum(logits: Tensor, frames: Tensor, target_tokens: Sequence[Sequence[int]], *, blank: int) -> Tensor:
    """Sum over utterances of the negative log-likelihood of their scripts, a scalar in float32 or better.

    Infinite where a script needs more frames than there are; `frames_needed` tells beforehand.

    Args:
        logits: (B, T, V).
        frames: (B,), valid frames of each row.
        scripts: B sequences of token numbers without blanks.
        blank: Number of the blank.

    Source: Graves et al., ICML 2006.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = logits.log_softmax(-1, dtype=dtype).transpose(0, 1)  # (T, B, V)
    device = logits.device
    lengths = torch.tensor([len(tokens) for tokens in target_tokens], device=device)
    flat_tokens = torch.tensor([token for tokens in target_tokens for token in tokens], dtype=torch.long, device=device)
    with torch.autocast(device.type, enabled=False):
        losses = F.ctc_loss(log_probabilities, flat_tokens, frames.to(device), lengths, blank=blank, reduction="none")
    return losses.sum()


def min_frames(tokens: Sequence[int]) -> int:
    """Frames of the shortest path through a script: one for each token, and a blank between equal neighbours."""
    return len(tokens) + sum(token == next_token for token, next_token in pairwise(tokens))


def greedy_decode(logits: Tensor, frames: Tensor, *, blank: int) -> list[list[int]]:
    """The likeliest token of every valid frame, repeats collapsed, then blanks dropped.

    Args:
        logits: (B, T, V).
        frames: (B,), valid frames of each row.
        blank: Number of the blank.
    """
    best_tokens = logits.argmax(-1).cpu()  # (B, T)
    rows = (torch.unique_consecutive(row[:valid]) for row, valid in zip(best_tokens, frames.tolist(), strict=True))
    return [[token for token in row.tolist() if token != blank] for row in rows]
