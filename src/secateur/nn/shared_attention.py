"""Self-attention of cut FastConformers, with equal dimensions in every head so that keys and values fit a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.nn.constant_block import OutputBias
from secateur.nn.relative_keys import relative_keys, relative_shift
from secateur.structure.encoder_shape import SharedAttentionShape


class CutSharedAttention(nn.Module):
    """Self-attention with relative positions and a cache, with equal dimensions in every head.

    Parameter names are those of the stock classes, biases of queries flat. The softmax scale stays that of the original
    head width. Heads without query/key dimensions attend uniformly. A removed block returns a zero that broadcasts;
    where it is the one that a streaming encoder reads its position from, it still counts frames in the cache.
    """

    def __init__(self, config: Any, shape: SharedAttentionShape, layer: int) -> None:
        """
        Args:
            config: Model config.
            shape: Heads and dimensions of this block.
            layer: Its number, for the cache.
        """
        super().__init__()
        width, query_key = config.hidden_size, shape.heads * shape.query_key
        self.config, self.shape, self.layer_idx = config, shape, layer
        self.scaling = shape.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        if query_key:
            self.q_proj = nn.Linear(width, query_key, bias=config.attention_bias)
            self.k_proj = nn.Linear(width, query_key, bias=config.attention_bias)
            self.relative_k_proj = nn.Linear(width, query_key, bias=False)
            self.bias_u = nn.Parameter(torch.zeros(query_key))
            self.bias_v = nn.Parameter(torch.zeros(query_key))
        if shape.heads:
            self.v_proj = nn.Linear(width, shape.heads * shape.value_output, bias=config.attention_bias)
            self.o_proj: Any = nn.Linear(shape.heads * shape.value_output, width, bias=config.attention_bias)
        else:
            self.o_proj = OutputBias(width) if shape.is_kept and config.attention_bias else None

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            position_embeddings: (B, 2L - 1, D) of the distances between the L frames attended to.
            attention_mask: Boolean, True attends; (B, 1, T, L). As in the stock class, which the library gives an
                additive one in the streaming encoder's eager form: that form is of no use.
            past_key_values: The cache of a streaming encoder.

        Returns:
            The output, (B, T, D) or a constant that broadcasts to it; and the weights (B, heads, T, L) when the
            implementation is eager, else None.
        """
        batch, time, _ = hidden_states.shape
        if not self.shape.heads:
            if past_key_values is not None and self.layer_idx == 0:  # whose length tells all layers where they are
                empty_states = hidden_states.new_zeros(batch, 1, time, 1)
                past_key_values.update(empty_states, empty_states, self.layer_idx)
            constant = hidden_states.new_zeros(1) if self.o_proj is None else self.o_proj(hidden_states)
            return constant, hidden_states.new_zeros(batch, 0, time, time) if self._is_eager else None
        query, key = self._project("q_proj", hidden_states), self._project("k_proj", hidden_states)
        value = self._split_heads(self.v_proj(hidden_states))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        bias = self._position_bias(query, position_embeddings, value.shape[2], past_key_values)  # (B, heads, T, L)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.logical_not(), self._masked_logit(bias.dtype))
        context, weights = self._product(query, key, value, bias)
        return self.o_proj(context.transpose(1, 2).reshape(batch, time, -1)), weights

    @property
    def _is_eager(self) -> bool:
        return getattr(self.config, "_attn_implementation", "eager") == "eager"

    def _masked_logit(self, dtype: torch.dtype) -> float:
        """Return the logit of a masked frame, as in the stock class."""
        # -inf with a cache, and the smallest finite value without one, as in the stock class.
        return float("-inf") if hasattr(self.config, "sliding_window") else torch.finfo(dtype).min

    def _split_heads(self, states: Tensor) -> Tensor:
        """Split heads: (B, T, heads x dimensions) -> (B, heads, T, dimensions)."""
        batch, time, width = states.shape
        return states.view(batch, time, self.shape.heads, width // self.shape.heads).transpose(1, 2)

    def _split_bias(self, bias: Tensor) -> Tensor:
        """Split heads of a bias: (heads x dimensions) -> (heads, 1, dimensions)."""
        return bias.view(self.shape.heads, 1, self.shape.query_key)

    def _project(self, name: str, states: Tensor) -> Tensor:
        """Return queries or keys of every head, with width zero if no query/key dimension is left."""
        if self.shape.query_key:
            return self._split_heads(self.get_submodule(name)(states))
        return states.new_zeros(states.shape[0], self.shape.heads, states.shape[1], 0)

    def _position_bias(self, query: Tensor, positions: Tensor | None, length: int, stream: Any) -> Tensor:
        """Return logits of relative positions: queries (B, heads, T, qk) -> (B, heads, T, L)."""
        if not self.shape.query_key:
            return query.new_zeros(*query.shape[:3], length)
        assert positions is not None
        keys = relative_keys(self, self.relative_k_proj, positions, time=query.shape[2], stream=stream)
        logits = (query + self._split_bias(self.bias_v)) @ self._split_heads(keys).transpose(
            2, 3
        )  # (B, heads, T, L + T - 1)
        bias: Tensor = relative_shift(logits)[..., :length] * self.scaling
        return bias

    def _product(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute attention of every head: (B, heads, T, vo), and weights when eager."""
        dropout, eager = self.attention_dropout if self.training else 0.0, self._is_eager
        if self.shape.query_key:
            query = query + self._split_bias(self.bias_u)
        # torch's fused kernels want equal widths; with unequal ones they fall back to something slower than this.
        if not eager and query.shape[-1] == value.shape[-1]:
            fused = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, dropout_p=dropout, scale=self.scaling
            )
            return fused, None
        logits = query @ key.transpose(2, 3) * self.scaling + bias if self.shape.query_key else bias
        # In float32 where weights are asked for, as in the stock class.
        weights = torch.softmax(logits, dim=-1, dtype=torch.float32 if eager else None).to(logits.dtype)
        weights = F.dropout(weights, p=dropout, training=self.training)
        return weights @ value, weights if eager else None
