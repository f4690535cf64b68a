"""Self-attention of cut models: heads of unequal width, the original softmax scale, WavLM's gated position bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.nn.constant_block import OutputBias
from secateur.structure.encoder_shape import AttentionShape


class CutAttention(nn.Module):
    """Multi-head self-attention with different numbers of query/key and value/output dimensions per head.

    Parameter names and the meaning of their rows are those of the stock classes; the rows of heads with equal
    dimensions stand together, so that each such group is one batched product and nothing is padded. A head without
    query/key dimensions attends uniformly. Relative to the stock classes, the softmax scale stays that of the
    original head width, and a removed block returns a zero that broadcasts.
    """

    #: Names of the projections of queries, keys, values and output in the stock class.
    projection_names = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, config: Any, shape: AttentionShape) -> None:
        """
        Args:
            config: Model config (`hidden_size`, `attention_dropout`, and the attention implementation).
            shape: Heads and dimensions of this block.
        """
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.dropout = config.attention_dropout
        self.scaling = shape.head_dim**-0.5
        self.groups = shape.groups
        query_key = sum(len(dims) for dims in shape.query_key)
        value_output = sum(len(dims) for dims in shape.value_output)
        for name, rows in zip(self.projection_names[:3], (query_key, query_key, value_output), strict=True):
            setattr(self, name, nn.Linear(width, rows) if rows else None)
        removed_output = OutputBias(width) if shape.is_kept else None
        setattr(self, self.projection_names[3], nn.Linear(value_output, width) if value_output else removed_output)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            attention_mask: None, boolean (True attends) or additive, broadcastable to (B, heads, T, T).

        Returns:
            The block's output (B, T, D), or a constant that broadcasts to it; and the attention weights
            (B, heads, T, T) in storage order of the heads when the implementation is eager, else None.
        """
        if not self.groups:
            return self._constant(hidden_states), _empty_attention_weights(hidden_states) if self._is_eager else None
        return self._attend(hidden_states, attention_mask, eager=self._is_eager)

    def _constant(self, hidden_states: Tensor) -> Tensor:
        projection = getattr(self, self.projection_names[3])
        constant: Tensor = hidden_states.new_zeros(1) if projection is None else projection(hidden_states)
        return constant

    @property
    def _is_eager(self) -> bool:
        return getattr(self.config, "_attn_implementation", "eager") == "eager"

    def _attend(
        self,
        hidden_states: Tensor,
        bias: Tensor | None,
        *,
        eager: bool,
        projection_input: Tensor | None = None,
        apply_positions: Callable[[slice, Tensor, Tensor | None], tuple[Tensor, Tensor | None]] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            bias: A mask or bias with one or all heads.
            eager: Whether attention weights are wanted.
            projection_input: Input of the query and key projections, (B, T, D); None for the hidden states.
            apply_positions: Adds positions to the queries (B, heads, T, qk) and the bias of a slice of heads; None for
                no positions.

        Returns:
            (B, T, D), and the weights when eager.
        """
        batch, time, _ = hidden_states.shape
        to_query, to_key, to_value, to_output = (getattr(self, name) for name in self.projection_names)
        query_key_input = hidden_states if projection_input is None else projection_input
        query, key = (
            query_key_input[..., :0] if projection is None else projection(query_key_input)
            for projection in (to_query, to_key)
        )
        value = to_value(hidden_states)
        outputs: list[Tensor] = []
        weights: list[Tensor] = []
        for heads, q, k, v in split_heads(query, key, value, self.groups):
            head_bias = bias if bias is None or bias.shape[1] == 1 else bias[:, heads]
            if apply_positions is not None:
                q, head_bias = apply_positions(heads, q, head_bias)
            context, weight = self._product(q, k, v, head_bias, eager)
            outputs.append(context.transpose(1, 2).reshape(batch, time, -1))
            if weight is not None:
                weights.append(weight)
        merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)  # (B, T, all vo)
        if len(weights) > 1:  # concatenating one copies it
            weights = [torch.cat(weights, dim=1)]
        return to_output(merged), (weights[0] if weights else None)

    def _product(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, eager: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute heads of equal width: (B, heads, T, qk), (B, heads, T, vo) -> (B, heads, T, vo), weights if eager."""
        dropout = self.dropout if self.training else 0.0
        # torch's fused kernels want equal widths; with unequal ones they fall back to something slower than this.
        if not eager and q.shape[-1] == v.shape[-1]:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scaling), None
        q, k = q * self.scaling, k.transpose(2, 3)
        if bias is not None and bias.shape[:2] == q.shape[:2] and bias.dtype == q.dtype:
            # Product and sum in one pass over memory.
            logits = torch.baddbmm(bias.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1)).view(*q.shape[:3], -1)
        else:
            logits = torch.matmul(q, k)
            if bias is not None:
                logits = logits.masked_fill_(~bias, float("-inf")) if bias.dtype == torch.bool else logits.add_(bias)
        weight = F.dropout(torch.softmax(logits, dim=-1), p=dropout, training=self.training)
        return torch.matmul(weight, v), (weight if eager else None)


class CutWavLMAttention(CutAttention):
    """`CutAttention` with WavLM's gated relative position bias, for kept heads only.

    The bias table of the whole model lives in layer 0 and outlives that layer's own heads. Layers hand each other its
    values for every pair of frames, (H, T, T), once for the whole batch, where the stock class repeats them for every
    utterance; each layer gates those of its own heads. The gate reads the unprojected input split by all original
    heads, hence the absolute head indices.
    Unlike the stock class, which always computes attention weights and returns their mean over heads, this one gives
    those of each head, and only when they are asked for: without them torch's fused kernel does the work.
    """

    def __init__(self, config: Any, shape: AttentionShape, *, has_position_table: bool) -> None:
        """
        Args:
            config: Model config.
            shape: Heads and dimensions of this block.
            has_position_table: True if the position table of the whole model is in this block.
        """
        super().__init__(config, shape)
        self.heads = shape.heads
        self.head_dim = shape.head_dim
        self.num_heads = config.hidden_size // shape.head_dim
        self.has_all_heads_in_order = shape.heads == tuple(range(self.num_heads))
        self.max_distance = config.max_bucket_distance
        if shape.heads:
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, len(shape.heads), 1, 1))
            self.gru_rel_pos_linear = nn.Linear(shape.head_dim, 8)
        self.rel_attn_embed = nn.Embedding(config.num_buckets, self.num_heads) if has_position_table else None

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, T), one where a frame is valid, or None.
            position_bias: Bias of all original heads (H, T, T) from the layer that holds the table, or None there.
            index: Layer number; not used.

        Returns:
            Output, weights (B, heads, T, T) when `output_attentions` is asked for, and the position bias for the next
            layer.
        """
        needs_weights = bool(kwargs.get("output_attentions", getattr(self.config, "output_attentions", False)))
        if self.rel_attn_embed is not None:
            position_bias = _distances_to_pairs(self.bias_by_distance(hidden_states.shape[1], hidden_states.device))
        if not self.groups:
            return (
                self._constant(hidden_states),
                _empty_attention_weights(hidden_states) if needs_weights else None,
                position_bias,
            )
        assert position_bias is not None
        head_position_bias = position_bias if self.has_all_heads_in_order else position_bias[list(self.heads)]
        bias = self._gate(hidden_states) * head_position_bias  # (B, heads, T, T)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], float("-inf"))
        output, weights = self._attend(hidden_states, bias, eager=needs_weights)
        return output, weights, position_bias

    def bias_by_distance(self, time: int, device: torch.device | None = None) -> Tensor:
        """Return the bias of every original head at key minus query distances -(T-1) ... T-1: (H, 2T - 1)."""
        table = self.rel_attn_embed
        assert table is not None
        # The module is called, and its weight not taken from it, for hooks that fetch weights.
        bias: Tensor = table(
            distance_buckets(time, table.num_embeddings, max_distance=self.max_distance, device=device)
        )
        return bias.t()

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """Return the gate of each head, (B, T, D) -> (B, heads, T, 1), in (1, 3) at initialization."""
        batch, time, _ = hidden_states.shape
        inputs_by_head = hidden_states.view(batch, time, self.num_heads, self.head_dim)
        if not self.has_all_heads_in_order:
            inputs_by_head = inputs_by_head[:, :, list(self.heads)]
        gate_logits = self.gru_rel_pos_linear(inputs_by_head).view(batch, time, len(self.heads), 2, 4).sum(-1)
        gate_a, gate_b = torch.sigmoid(gate_logits).permute(3, 0, 2, 1).unsqueeze(-1)  # each (B, heads, T, 1)
        gate: Tensor = gate_a * (gate_b * self.gru_rel_pos_const - 1.0) + 2.0
        return gate


def split_heads(
    query: Tensor, key: Tensor, value: Tensor, groups: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield a slice of heads, queries and keys (B, heads, T, qk), and values (B, heads, T, vo) for each group.

    Example with groups (2, 8, 8) and (1, 5, 8): the first item is heads 0 and 1 with columns 0 to 15 of the queries,
    and the second item is head 2 with columns 16 to 20 of the queries and columns 16 to 23 of the values.

    Args:
        query: (B, T, all qk).
        key: (B, T, all qk).
        value: (B, T, all vo).
        groups: Heads, query/key dimensions and value/output dimensions of each run of heads of equal shape.
    """
    batch, time, _ = value.shape
    head = qk_offset = vo_offset = 0
    for count, qk, vo in groups:
        q, k = (
            x[..., qk_offset : qk_offset + count * qk].view(batch, time, count, qk).transpose(1, 2)
            for x in (query, key)
        )
        v = value[..., vo_offset : vo_offset + count * vo].view(batch, time, count, vo).transpose(1, 2)
        yield slice(head, head + count), q, k, v
        head, qk_offset, vo_offset = head + count, qk_offset + count * qk, vo_offset + count * vo


def bias_by_distance(table: Tensor, time: int, *, max_distance: int) -> Tensor:
    """Return WavLM's position bias at key minus query distances -(T-1) ... T-1.

    Args:
        table: (buckets, H).
        time: T.
        max_distance: Distances from here on share a bucket.

    Returns:
        (H, 2T - 1).
    """
    return F.embedding(distance_buckets(time, len(table), max_distance=max_distance, device=table.device), table).t()


def distance_buckets(time: int, buckets: int, *, max_distance: int, device: torch.device | None) -> Tensor:
    """Return the bucket of each key minus query distance -(T-1) ... T-1 in WavLM's table: (2T - 1,).

    Args:
        time: T.
        buckets: Rows of the table.
        max_distance: Distances from here on share a bucket.
        device: Device of the result.
    """
    distance = torch.arange(1 - time, time, device=device)
    sign_buckets = buckets // 2
    exact_buckets = sign_buckets // 2
    absolute_distance = distance.abs()
    # The same operations as the stock class, in float32, so that no distance falls into another bucket.
    log_bucket = (
        torch.log(absolute_distance.float() / exact_buckets)
        / math.log(max_distance / exact_buckets)
        * (sign_buckets - exact_buckets)
    )
    log_bucket = (exact_buckets + log_bucket).to(torch.long).clamp(max=sign_buckets - 1)
    return (distance > 0).long() * sign_buckets + torch.where(
        absolute_distance < exact_buckets, absolute_distance, log_bucket
    )


def _empty_attention_weights(hidden_states: Tensor) -> Tensor:
    """Return attention weights of zero heads, (B, 0, T, T), so that a model keeps an entry for every layer."""
    batch, time, _ = hidden_states.shape
    return hidden_states.new_zeros(batch, 0, time, time)


def _distances_to_pairs(by_distance: Tensor) -> Tensor:
    """Return the bias of each pair of frames, (H, 2T - 1) -> (H, T, T): row i holds the distances -i ... T-1-i.

    Example with T = 3 and biases a b c d e of the distances -2 to 2: the rows are c d e, b c d and a b c.
    """
    time = (by_distance.shape[1] + 1) // 2
    return by_distance.unfold(1, time, 1).flip(1)
