"""Self-attention for inference: one projection for queries, keys, values and gates, and logits that stay in cache."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.inference.linear import FusedLinear, fused, is_eager
from secateur.inference.positions import RelativePositions
from secateur.modules.attention import split_heads
from secateur.modules.low_rank import FactorisedLinear

_LOGITS = 2**22  # elements of a block of logits: in float32 16 MiB, which is to stay in the cores' shared cache


class InferenceAttention(nn.Module):
    """What a stock or cut attention block computes, without attention weights.

    The softmax scale is folded into the queries. Where positions have a bias, keys and values are taken in reverse
    order, in which the bias is a view of one vector for each head (`RelativePositions`).
    """

    constant: Tensor | None

    def __init__(self, block: Any, *, positions: RelativePositions | None = None) -> None:
        """
        Args:
            block: A stock attention block, or one of ours with at least one head.
            positions: WavLM's position bias, for WavLM's blocks.
        """
        super().__init__()
        groups = getattr(block, "groups", None)
        self.groups: tuple[tuple[int, int, int], ...] = groups or ((block.num_heads, block.head_dim, block.head_dim),)
        self.heads = tuple(getattr(block, "heads", range(sum(count for count, _, _ in self.groups))))
        # Shared by all layers, so no child of this one: it moves with the encoder.
        self._positions = (positions,)
        parts = [
            _rows(block.q_proj, block.scaling),
            _rows(block.k_proj),
            _rows(block.v_proj),
            (*_gate_rows(block, self.heads), None) if positions is not None else None,
        ]
        there = [part for part in parts if part is not None]
        self.widths = [0 if part is None else len(part[0]) for part in parts]
        self.projection = FusedLinear(torch.cat([w for w, _, _ in there]), torch.cat([b for _, b, _ in there]))
        # What follows the projection: for a factorised map the product of its ranks with its outer matrix.
        self.behind = nn.ModuleList((part[2] if part else None) or nn.Identity() for part in parts)
        self.out = fused(block.out_proj)
        constant = block.gru_rel_pos_const.detach().flatten() if positions is not None else None
        self.register_buffer("constant", constant)  # (heads,)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, ...]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            attention_mask: None; of WavLM's blocks (B, T), true where a frame is valid; of others boolean or additive,
                broadcastable to (B, heads, T, T) and the same for every head and query.

        Returns:
            The block's output (B, T, D) and None for each other thing that the stock block returns.
        """
        positions = self._positions[0]
        pieces = self.projection(hidden_states).split(self.widths, dim=-1)
        query, key, value, gate = (then(piece) for then, piece in zip(self.behind, pieces, strict=True))
        bias = self._gate(gate) if positions is not None else None  # (B, T, heads)
        hidden = None if attention_mask is None else _additive(attention_mask, hidden_states.dtype)  # (B, T)
        if positions is not None:
            key, value = key.flip(1), value.flip(1)
            hidden = None if hidden is None else hidden.flip(1)
        by_distance = positions(hidden_states.shape[1]) if positions is not None else None  # (original heads, 2T - 1)
        attend = self._one_by_one if is_eager(hidden_states) else self._at_once
        output = self.out(attend(query, key, value, bias, by_distance, hidden))
        return (output, None, None) if positions is not None else (output, None)

    def _gate(self, values: Tensor) -> Tensor:
        """(B, T, 2 heads) -> (B, T, heads)."""
        first, second = torch.sigmoid(values).chunk(2, dim=-1)
        assert self.constant is not None
        return first * (second * self.constant - 1.0) + 2.0

    def _one_by_one(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gate: Tensor | None,
        by_distance: Tensor | None,
        hidden: Tensor | None,
    ) -> Tensor:
        """Some heads of an utterance and some of their queries at a time: (B, T, all vo)."""
        batch, time, _ = value.shape
        rows = max(1, min(time, _LOGITS // time))  # of one head
        together = max(1, _LOGITS // (rows * time))  # heads
        gates = None if gate is None else gate.transpose(1, 2).contiguous()[..., None]  # (B, heads, T, 1)
        outputs = []
        for heads, q, k, v in split_heads(query, key, value, self.groups):
            # Each head's numbers together: strided rows are slow to read in some libraries.
            q, k, v = q.contiguous(), k.transpose(2, 3).contiguous(), v.contiguous()
            count = v.shape[1]
            bias = None if by_distance is None else by_distance[list(self.heads[heads])]  # (heads, 2T - 1)
            merged = v.new_empty(batch, time, *v.shape[1::2])  # (B, T, heads, vo)
            for index, first, start in product(range(batch), range(0, count, together), range(0, time, rows)):
                own, some = slice(first, min(first + together, count)), slice(start, min(start + rows, time))
                logits = torch.bmm(q[index, own, some], k[index, own])
                if bias is not None and gates is not None:
                    logits.addcmul_(gates[index, heads][own, some], _hankel(bias[own], some, time))
                if hidden is not None:
                    logits += hidden[index]
                torch._softmax(logits, -1, False, out=logits)
                merged[index, some, own] = torch.bmm(logits, v[index, own]).transpose(0, 1)
            outputs.append(merged.flatten(2))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _at_once(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gate: Tensor | None,
        by_distance: Tensor | None,
        hidden: Tensor | None,
    ) -> Tensor:
        """All heads of equal widths together: (B, T, all vo)."""
        batch, time, _ = value.shape
        outputs = []
        for heads, q, k, v in split_heads(query, key, value, self.groups):
            bias = None if hidden is None else hidden[:, None, None]
            if by_distance is not None and gate is not None:
                table = _hankel(by_distance[list(self.heads[heads])], slice(0, time), time)
                gated = gate[..., heads].transpose(1, 2)[..., None] * table
                bias = gated if bias is None else gated + bias
            if q.shape[-1] == v.shape[-1]:
                context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            else:
                logits = q @ k.transpose(2, 3)
                context = torch.softmax(logits if bias is None else logits + bias, dim=-1) @ v
            outputs.append(context.transpose(1, 2).reshape(batch, time, -1))
        return torch.cat(outputs, dim=-1)


def _hankel(vectors: Tensor, rows: slice, time: int) -> Tensor:
    """Some rows of each head's matrix, whose element (i, r) is vector[i + r], without a copy: (heads, rows, T)."""
    size = len(vectors), rows.stop - rows.start, time
    return vectors[:, rows.start :].as_strided(size, (vectors.stride(0), 1, 1))


def _rows(layer: Any, scale: float = 1.0) -> tuple[Tensor, Tensor, nn.Module | None] | None:
    """A projection as rows of a larger one, (rows, D) and (rows,), and what follows them; None where there is none."""
    if layer is None:
        return None
    if isinstance(layer, FactorisedLinear):
        inner, outer = layer.inner.weight, layer.outer
        return inner, inner.new_zeros(len(inner)), FusedLinear(outer.weight * scale, outer.bias * scale)
    return layer.weight * scale, layer.bias * scale, None


def _gate_rows(block: Any, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """WavLM's gate as rows of a projection of the whole input: (2 heads, D) and (2 heads,), first all firsts.

    The stock block projects each head's slice of its input to eight numbers and adds them up in two fours.
    """
    stock = block.gru_rel_pos_linear
    pair = stock.weight.view(2, 4, -1).sum(dim=1)  # (2, head_dim)
    bias = stock.bias.view(2, 4).sum(dim=1)
    width, head_dim = block.v_proj.in_features, pair.shape[1]
    rows = pair.new_zeros(2, len(heads), width)
    for place, head in enumerate(heads):
        rows[:, place, head * head_dim : (head + 1) * head_dim] = pair
    return rows.flatten(0, 1), bias[:, None].expand(2, len(heads)).flatten()


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of any of the library's forms -> what is added to each key's logits, (B, T)."""
    keys = mask if mask.dim() == 2 else mask[:, 0, 0]
    if keys.is_floating_point():
        return keys.to(dtype)
    return torch.zeros_like(keys, dtype=dtype).masked_fill(~keys.bool(), torch.finfo(dtype).min)
