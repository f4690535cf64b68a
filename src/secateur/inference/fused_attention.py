"""Self-attention for inference, with a joint projection and blocks of logits that fit in the cache."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.inference.linear import FusedLinear, fuse_linear, is_eager
from secateur.inference.position_bias import RelativePositionBias
from secateur.nn.attention import split_heads
from secateur.nn.low_rank import FactorizedLinear

_MAX_BLOCK_LOGITS = (
    2**22
)  # elements of a block of logits: in float32 16 MiB, which is to stay in the cores' shared cache


class InferenceAttention(nn.Module):
    """Replacement of a stock or cut attention block with the same outputs, but no attention weights.

    Queries, keys, values and gates come from one projection, with the softmax scale folded into the queries. With a
    position bias, keys and values are reversed in time, so that the bias is a view of one vector per head
    (`RelativePositionBias`).
    """

    constant: Tensor | None

    def __init__(self, block: Any, *, positions: RelativePositionBias | None = None) -> None:
        """
        Args:
            block: A stock attention block, or a cut one with at least one head.
            positions: WavLM's position bias, for WavLM's blocks.
        """
        super().__init__()
        groups = getattr(block, "groups", None)
        self.groups: tuple[tuple[int, int, int], ...] = groups or ((block.num_heads, block.head_dim, block.head_dim),)
        self.heads = tuple(getattr(block, "heads", range(sum(count for count, _, _ in self.groups))))
        # Shared by all layers, hence no submodule of this one: the encoder registers it.
        self._positions = (positions,)
        projection_parts = [
            _projection_rows(block.q_proj, block.scaling),
            _projection_rows(block.k_proj),
            _projection_rows(block.v_proj),
            (*_gate_rows(block, self.heads), None) if positions is not None else None,
        ]
        present_parts = [part for part in projection_parts if part is not None]
        self.widths = [0 if part is None else len(part[0]) for part in projection_parts]
        self.projection = FusedLinear(
            torch.cat([w for w, _, _ in present_parts]), torch.cat([b for _, b, _ in present_parts])
        )
        # Behind the joint projection: for a factorized map the product of its ranks with its outer matrix.
        self.outer_projections = nn.ModuleList(
            (part[2] if part else None) or nn.Identity() for part in projection_parts
        )
        self.out = fuse_linear(block.out_proj)
        constant = block.gru_rel_pos_const.detach().flatten() if positions is not None else None
        self.register_buffer("constant", constant)  # (heads,)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, ...]:
        """Compute self-attention.

        Args:
            hidden_states: (B, T, D).
            attention_mask: None; of WavLM's blocks (B, T), true where a frame is valid; of others boolean or additive,
                broadcastable to (B, heads, T, T) and the same for every head and query.

        Returns:
            The output (B, T, D), and None in place of each further output of the stock block.
        """
        positions = self._positions[0]
        projected = self.projection(hidden_states).split(self.widths, dim=-1)
        query, key, value, gate = (outer(piece) for outer, piece in zip(self.outer_projections, projected, strict=True))
        head_gates = self._gate(gate) if positions is not None else None  # (B, T, heads)
        padding_bias = None if attention_mask is None else _additive_mask(attention_mask, hidden_states.dtype)  # (B, T)
        if positions is not None:
            key, value = key.flip(1), value.flip(1)
            padding_bias = None if padding_bias is None else padding_bias.flip(1)
        by_distance = positions(hidden_states.shape[1]) if positions is not None else None  # (original heads, 2T - 1)
        attend = self._attend_blockwise if is_eager(hidden_states) else self._attend_batched
        output = self.out(attend(query, key, value, head_gates, by_distance, padding_bias))
        return (output, None, None) if positions is not None else (output, None)

    def _gate(self, values: Tensor) -> Tensor:
        """Compute WavLM's gates, (B, T, 2 heads) -> (B, T, heads)."""
        first, second = torch.sigmoid(values).chunk(2, dim=-1)
        assert self.constant is not None
        return first * (second * self.constant - 1.0) + 2.0

    def _attend_blockwise(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gate: Tensor | None,
        by_distance: Tensor | None,
        padding_bias: Tensor | None,
    ) -> Tensor:
        """Attend block by block, over some heads of an utterance and some queries at a time: (B, T, all vo)."""
        batch, time, _ = value.shape
        queries_per_block = max(1, min(time, _MAX_BLOCK_LOGITS // time))  # of one head
        heads_per_block = max(1, _MAX_BLOCK_LOGITS // (queries_per_block * time))  # heads
        gates = None if gate is None else gate.transpose(1, 2).contiguous()[..., None]  # (B, heads, T, 1)
        outputs = []
        for heads, q, k, v in split_heads(query, key, value, self.groups):
            # Each head's numbers together: strided rows are slow to read in some libraries.
            q, k, v = q.contiguous(), k.transpose(2, 3).contiguous(), v.contiguous()
            count = v.shape[1]
            bias = None if by_distance is None else by_distance[list(self.heads[heads])]  # (heads, 2T - 1)
            merged = v.new_empty(batch, time, *v.shape[1::2])  # (B, T, heads, vo)
            for index, first_head, start in product(
                range(batch), range(0, count, heads_per_block), range(0, time, queries_per_block)
            ):
                head_slice, query_slice = (
                    slice(first_head, min(first_head + heads_per_block, count)),
                    slice(start, min(start + queries_per_block, time)),
                )
                logits = torch.bmm(q[index, head_slice, query_slice], k[index, head_slice])
                if bias is not None and gates is not None:
                    logits.addcmul_(
                        gates[index, heads][head_slice, query_slice], _hankel(bias[head_slice], query_slice, time)
                    )
                if padding_bias is not None:
                    logits += padding_bias[index]
                torch._softmax(logits, -1, False, out=logits)
                merged[index, query_slice, head_slice] = torch.bmm(logits, v[index, head_slice]).transpose(0, 1)
            outputs.append(merged.flatten(2))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _attend_batched(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gate: Tensor | None,
        by_distance: Tensor | None,
        padding_bias: Tensor | None,
    ) -> Tensor:
        """Attend with all heads of equal widths at once: (B, T, all vo)."""
        batch, time, _ = value.shape
        outputs = []
        for heads, q, k, v in split_heads(query, key, value, self.groups):
            bias = None if padding_bias is None else padding_bias[:, None, None]
            if by_distance is not None and gate is not None:
                table = _hankel(by_distance[list(self.heads[heads])], slice(0, time), time)
                gated_bias = gate[..., heads].transpose(1, 2)[..., None] * table
                bias = gated_bias if bias is None else gated_bias + bias
            if q.shape[-1] == v.shape[-1]:
                context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            else:
                logits = q @ k.transpose(2, 3)
                context = torch.softmax(logits if bias is None else logits + bias, dim=-1) @ v
            outputs.append(context.transpose(1, 2).reshape(batch, time, -1))
        return torch.cat(outputs, dim=-1)


def _hankel(vectors: Tensor, rows: slice, time: int) -> Tensor:
    """Return rows of Hankel matrices, element (i, r) = vector[i + r], as a view: (heads, 2T - 1) -> (heads, rows, T).

    For T = 3 the matrix of a vector [a, b, c, d, e] has the rows [a, b, c], [b, c, d] and [c, d, e].
    """
    size = len(vectors), rows.stop - rows.start, time
    return vectors[:, rows.start :].as_strided(size, (vectors.stride(0), 1, 1))


def _projection_rows(layer: Any, scale: float = 1.0) -> tuple[Tensor, Tensor, nn.Module | None] | None:
    """Return the rows of a layer in the joint projection; None for a missing layer.

    Returns:
        Weights (rows, D), biases (rows,), and for a factorized layer the outer map behind them, else None.
    """
    if layer is None:
        return None
    if isinstance(layer, FactorizedLinear):
        inner, outer = layer.inner.weight, layer.outer
        return inner, inner.new_zeros(len(inner)), FusedLinear(outer.weight * scale, outer.bias * scale)
    return layer.weight * scale, layer.bias * scale, None


def _gate_rows(block: Any, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return WavLM's gates as rows of the joint projection, weights (2 heads, D) and biases (2 heads,).

    The stock block projects each head's slice of the input to eight numbers and sums the first and the last four. Rows
    are ordered with the first sums of all heads before the second sums.
    """
    stock = block.gru_rel_pos_linear
    pair = stock.weight.view(2, 4, -1).sum(dim=1)  # (2, head_dim)
    bias = stock.bias.view(2, 4).sum(dim=1)
    width, head_dim = block.v_proj.in_features, pair.shape[1]
    rows = pair.new_zeros(2, len(heads), width)
    for index, head in enumerate(heads):
        rows[:, index, head * head_dim : (head + 1) * head_dim] = pair
    return rows.flatten(0, 1), bias[:, None].expand(2, len(heads)).flatten()


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask in any form of transformers to a bias on the logits of each key, (B, T)."""
    keys = mask if mask.dim() == 2 else mask[:, 0, 0]
    if keys.is_floating_point():
        return keys.to(dtype)
    return torch.zeros_like(keys, dtype=dtype).masked_fill(~keys.bool(), torch.finfo(dtype).min)
