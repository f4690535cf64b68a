"""Self-attention of cut Conformers: heads of unequal width with relative, relative-key, rotary or no positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.nn.attention import CutAttention
from secateur.structure.encoder_shape import AttentionShape


class CutConformerAttention(CutAttention):
    """`CutAttention` with the positions of wav2vec2-conformer and w2v-BERT, for kept heads and dimensions only.

    Relative positions have keys and biases beside those of the frames, whose rows are cut like theirs; the biases are
    one vector here, (all qk), where the stock classes have one row for each head. Relative keys are columns of one
    table that all heads share, of which each head here reads those of its own dimensions; the product is made once for
    each distance that the table has, where stock code makes it for each pair of frames. Rotary positions turn the
    input of queries and keys, all of its original heads.
    """

    projection_names = ("linear_q", "linear_k", "linear_v", "linear_out")

    def __init__(self, config: Any, shape: AttentionShape) -> None:
        """
        Args:
            config: Model config, with `position_embeddings_type`.
            shape: Heads and dimensions of this block.
        """
        super().__init__(config, shape)
        position_type, width = config.position_embeddings_type, config.hidden_size
        self.position_type = position_type if self.groups else None
        self.query_key, self.head_dim = shape.query_key, shape.head_dim
        rows = sum(len(dims) for dims in shape.query_key)
        self.head_offsets = tuple(
            sum(len(dims) for dims in shape.query_key[:head]) for head in range(len(shape.heads) + 1)
        )
        self.linear_pos = nn.Linear(width, rows, bias=False) if position_type == "relative" and rows else None
        if self.linear_pos is not None:
            self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.zeros(rows)) for _ in range(2))
        if self.position_type == "relative_key":
            self.max_distances = config.left_max_position_embeddings, config.right_max_position_embeddings
            self.distance_embedding = nn.Embedding(sum(self.max_distances) + 1, shape.head_dim)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            attention_mask: None, boolean (True attends) or additive, broadcastable to (B, 1, T, T).
            relative_position_embeddings: Of relative positions (1, 2T - 1, D), farthest in the past first; of rotary
                ones cosines and sines (2, T, 1, 1, head width).

        Returns:
            As `CutAttention.forward`.
        """
        if self.position_type is None:
            return super().forward(hidden_states, attention_mask)
        rotated, keys = None, None
        if self.position_type == "rotary":
            assert relative_position_embeddings is not None
            rotated = rotate(hidden_states, relative_position_embeddings.to(hidden_states.dtype), self.head_dim)
        elif self.linear_pos is not None:
            keys = self.linear_pos(relative_position_embeddings)  # (1, 2T - 1, all qk)

        def apply_positions(heads: slice, q: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
            if self.position_type == "rotary" or not q.shape[-1]:
                return q, mask
            if keys is None:
                return q, _add_mask(self._relative_key_scores(heads, q) * self.scaling, mask)
            q, scores = self._relative_scores(heads, q, keys)
            return q, _add_mask(scores * self.scaling, mask)

        return self._attend(
            hidden_states,
            attention_mask,
            eager=self._is_eager,
            projection_input=rotated,
            apply_positions=apply_positions,
        )

    def _relative_scores(self, heads: slice, q: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries with bias (B, heads, T, qk), and products with the keys of positions (B, heads, T, T)."""
        head_columns = slice(self.head_offsets[heads.start], self.head_offsets[heads.stop])
        count, width = q.shape[1], q.shape[-1]
        u, v = (bias[head_columns].view(count, 1, width) for bias in (self.pos_bias_u, self.pos_bias_v))
        position_keys = (
            keys[..., head_columns].view(keys.shape[1], count, width).permute(1, 2, 0)
        )  # (heads, qk, 2T - 1)
        return q + u, distances_to_pairs(torch.matmul(q + v, position_keys))

    def _relative_key_scores(self, heads: slice, q: Tensor) -> Tensor:
        """Return products of queries (B, heads, T, qk) and the keys of distances: (B, heads, T, T)."""
        columns = torch.tensor(self.query_key[heads], device=q.device)  # (heads, qk)
        distance_indices = torch.arange(self.distance_embedding.num_embeddings, device=q.device)
        table = self.distance_embedding(distance_indices).to(q.dtype)[:, columns]  # (distances, heads, qk)
        by_distance = torch.matmul(q, table.permute(1, 2, 0))  # (B, heads, T, distances)
        time = torch.arange(q.shape[2], device=q.device)
        max_past, max_future = self.max_distances
        index = (time[None, :] - time[:, None]).clamp(-max_past, max_future) + max_past  # (T, T)
        return by_distance.gather(-1, index.expand(*q.shape[:2], -1, -1))


def distances_to_pairs(by_distance: Tensor) -> Tensor:
    """Turn scores of a query for each distance into scores for each key, without a copy.

    ``[[a b c], [d e f]]`` becomes ``[[b c], [d e]]``: a later query is farther from the first key.

    Args:
        by_distance: (…, T, 2T - 1), the farthest in the past first.

    Returns:
        (…, T, T).
    """
    time = by_distance.shape[-2]
    # Row i begins T - 1 - i elements into it: each begins one element less than a row behind the one before.
    return by_distance.flatten(-2)[..., time - 1 :].unfold(-1, time, max(1, 2 * time - 2))


def rotate(hidden_states: Tensor, cos_sin: Tensor, head_dim: int) -> Tensor:
    """Rotate the input of every original head by the position of the frame: (B, T, D) -> (B, T, D).

    Args:
        hidden_states: (B, T, D).
        cos_sin: Cosines and sines (2, T, 1, 1, head_dim).
        head_dim: Dimensions of an original head, which are turned in pairs (i, i + head_dim / 2).
    """
    states_by_head = hidden_states.unflatten(-1, (-1, head_dim))  # (B, T, H, head_dim)
    cos, sin = cos_sin[:, : hidden_states.shape[1], 0]  # each (T, 1, head_dim)
    first_half, second_half = states_by_head.chunk(2, dim=-1)
    rotated: Tensor = states_by_head * cos + torch.cat((-second_half, first_half), dim=-1) * sin
    return rotated.flatten(-2)


def _add_mask(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Add a mask, boolean or additive, to the bias of each pair of frames."""
    if mask is None:
        return bias
    return bias.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else bias + mask
