"""FastConformer encoders (Parakeet, Nemotron): cut blocks, and how the stock modules follow a shape.

All heads of a layer have the same dimensions, so that keys and values fit one cache, (B, heads, frames, dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.architectures import stock_layout
from secateur.architectures.family import Family
from secateur.nn.attention import OutputBias
from secateur.nn.relative_keys import relative_keys, relative_shift
from secateur.structure import axis as names
from secateur.structure.encoder_shape import EncoderShape

#: Samples between two log-mel features.
HOP_LENGTH = 160

ORIGINAL_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "subsampling_conv_channels",
)


@dataclass(frozen=True, kw_only=True)
class SharedAttentionShape:
    """An attention block whose heads have the same dimensions.

    Attributes:
        kept: Whether the block is there; without heads it is its output bias.
        heads: How many heads are left; none where they would have no value/output dimensions.
        query_key: Query/key dimensions of each.
        value_output: Value/output dimensions of each.
        head_dim: Dimensions of a head in the original model.
    """

    is_kept: bool
    heads: int
    query_key: int
    value_output: int
    head_dim: int

    @classmethod
    def from_encoder_shape(cls, shape: EncoderShape, path: str) -> SharedAttentionShape:
        """That of a module path."""
        return cls(
            is_kept=bool(shape.units(names.block(path), 1)),
            heads=len(shape.units(names.heads(path), int(shape.original["num_attention_heads"]))),
            query_key=len(shape.units(names.shared_query_key(path), shape.head_dim)),
            value_output=len(shape.units(names.shared_value_output(path), shape.head_dim)),
            head_dim=shape.head_dim,
        )

    @property
    def count(self) -> int:
        """How many heads are left."""
        return self.heads

    @property
    def has_all_dims(self) -> bool:
        """Whether they have all their dimensions."""
        return self.query_key == self.value_output == self.head_dim


class ConstantBlock(nn.Module):
    """A block that has lost all its units, or itself: the bias of its output if it is kept, else zero.

    Either broadcasts to (B, T, D).
    """

    def __init__(self, output_name: str, block: nn.Module, *, is_kept: bool) -> None:
        """
        Args:
            output: What the block calls its last linear map.
            block: The stock block.
            kept: Whether its bias is.
        """
        super().__init__()
        bias: Any = block.get_submodule(output_name).bias
        self.output_name = output_name if is_kept and bias is not None else ""
        if self.output_name:
            setattr(self, output_name, OutputBias(len(bias)))

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """(B, T, D) -> a constant that broadcasts to it."""
        if not self.output_name:
            return hidden_states.new_zeros(1)
        bias: Tensor = self.get_submodule(self.output_name)(hidden_states)
        return bias


class CutSharedAttention(nn.Module):
    """Self-attention with relative positions and a cache, of fewer heads with fewer dimensions, the same in all heads.

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
        """The logit of a frame that is not attended to, as in the stock class: with a cache a row may have others."""
        return float("-inf") if hasattr(self.config, "sliding_window") else torch.finfo(dtype).min

    def _split_heads(self, states: Tensor) -> Tensor:
        """(B, T, heads x dimensions) -> (B, heads, T, dimensions)."""
        batch, time, width = states.shape
        return states.view(batch, time, self.shape.heads, width // self.shape.heads).transpose(1, 2)

    def _split_bias(self, bias: Tensor) -> Tensor:
        """(heads x dimensions) -> (heads, 1, dimensions)."""
        return bias.view(self.shape.heads, 1, self.shape.query_key)

    def _project(self, name: str, states: Tensor) -> Tensor:
        """Queries or keys of every head; of width zero where nothing is left of them."""
        if self.shape.query_key:
            return self._split_heads(self.get_submodule(name)(states))
        return states.new_zeros(states.shape[0], self.shape.heads, states.shape[1], 0)

    def _position_bias(self, query: Tensor, positions: Tensor | None, length: int, stream: Any) -> Tensor:
        """Logits of relative positions: queries (B, heads, T, qk) -> (B, heads, T, L)."""
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
        """Attention of every head: (B, heads, T, vo), and weights when eager."""
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


def apply_shape(model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace what pruning cut in a freshly built encoder; the number of layers comes from the config."""
    resize_subsampling(model.subsampling, config, shape)
    for index, (path, layer) in enumerate(zip(shape.layers, model.layers, strict=True)):
        layer.self_attn = CutSharedAttention(
            config, SharedAttentionShape.from_encoder_shape(shape, f"{path}.self_attn"), index
        )
        for name in ("feed_forward1", "feed_forward2"):
            units = shape.feed_forward(f"{path}.{name}")
            if not units.units:
                setattr(layer, name, ConstantBlock("linear2", getattr(layer, name), is_kept=units.is_kept))
                continue
            block, width = getattr(layer, name), len(units.units)
            block.linear1 = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
            block.linear2 = nn.Linear(width, config.hidden_size, bias=config.attention_bias)
        channels = shape.convolution(f"{path}.conv")
        if channels.units:
            resize_conv_channels(layer.conv, len(channels.units))
        else:
            layer.conv = ConstantBlock("pointwise_conv2", layer.conv, is_kept=channels.is_kept)


def resize_conv_channels(block: Any, channels: int) -> None:
    """Give a convolution module so many channels."""
    block.pointwise_conv1 = resized_convolution(block.pointwise_conv1, outputs=2 * channels)
    block.depthwise_conv = resized_convolution(block.depthwise_conv, inputs=channels, outputs=channels)
    block.norm = type(block.norm)(channels, eps=block.norm.eps)
    block.pointwise_conv2 = resized_convolution(block.pointwise_conv2, inputs=channels)


def resize_subsampling(block: Any, config: Any, shape: EncoderShape) -> None:
    """Give the convolutions in front their channels, and the linear map behind them its columns."""
    modules = dict(block.named_modules())
    in_channels = 0
    for standard, depthwise, pointwise in subsampling_stages(block):
        path = pointwise or standard
        channels = len(
            shape.units(names.channels(f"subsampling.{path}"), int(shape.original["subsampling_conv_channels"]))
        )
        if depthwise:
            _set_submodule(
                block, depthwise, resized_convolution(modules[depthwise], inputs=in_channels, outputs=in_channels)
            )
            _set_submodule(
                block, pointwise, resized_convolution(modules[pointwise], inputs=in_channels, outputs=channels)
            )
        else:
            _set_submodule(block, standard, resized_convolution(modules[standard], outputs=channels))
        in_channels = channels
    columns = block.linear.in_features // int(shape.original["subsampling_conv_channels"])
    block.linear = nn.Linear(in_channels * columns, config.hidden_size)


def subsampling_stages(block: nn.Module) -> list[tuple[str, str, str]]:
    """Module paths of the convolutions in front, stage by stage: of the first alone, then of pairs."""
    paths = [path for path, module in block.named_modules() if isinstance(module, nn.Conv2d)]
    return [(paths[0], "", ""), *(("", *paths[i : i + 2]) for i in range(1, len(paths), 2))]


def resized_convolution(convolution: Any, *, inputs: int | None = None, outputs: int | None = None) -> Any:
    """A convolution like another, of the same class, with other numbers of channels; a depthwise one stays one."""
    inputs = convolution.in_channels if inputs is None else inputs
    outputs = convolution.out_channels if outputs is None else outputs
    depthwise = convolution.groups == convolution.in_channels and convolution.groups > 1
    if (inputs, outputs) == (convolution.in_channels, convolution.out_channels):
        return convolution
    optional_arguments = {"cache_key": convolution.cache_key} if hasattr(convolution, "cache_key") else {}
    if not optional_arguments or convolution.padding[0]:
        optional_arguments["padding"] = convolution.padding
    if not hasattr(convolution, "cache_key") or isinstance(convolution, nn.Conv1d):
        optional_arguments["bias"] = convolution.bias is not None
    return type(convolution)(
        inputs,
        outputs,
        convolution.kernel_size[0],
        stride=convolution.stride[0],
        groups=inputs if depthwise else 1,
        **optional_arguments,
    )


def _set_submodule(block: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, module)


def fields(shape: EncoderShape) -> dict[str, Any]:
    """Config fields that follow a shape in our classes."""
    original = shape.original
    return {"num_hidden_layers": len(shape.layers), "num_attention_heads": int(original["num_attention_heads"])}


def stock_fields(config: Any, shape: EncoderShape) -> dict[str, Any]:
    """Config fields with which the stock classes have a shape.

    Raises:
        SelectionError: They cannot express it.
    """
    layer_obstacle = stock_layout.conformer_obstacle(
        shape,
        partial(SharedAttentionShape.from_encoder_shape, shape),
        convolution="conv",
        feed_forwards=("feed_forward1", "feed_forward2"),
    )
    stock_layout.raise_if_obstacle(layer_obstacle or subsampling_obstacle(config, shape))
    stock_values = {
        "intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.feed_forward1").units),
        "subsampling_conv_channels": subsampling_widths(config, shape)[0],
    }
    return fields(shape) | stock_values


def subsampling_widths(config: Any, shape: EncoderShape) -> list[int]:
    """Channels of the stages in front, those that lost some before those that are whole."""
    pruned_widths = [
        len(units)
        for name, units in shape.axes.items()
        if name.startswith("subsampling.") and name.endswith("/channels")
    ]
    stages = int(config.subsampling_factor).bit_length() - 1  # each halves the frames
    return pruned_widths + [int(shape.original["subsampling_conv_channels"])] * (stages - len(pruned_widths))


def samples_per_frame(config: Any) -> int:
    """Return how many samples a frame of an encoder stands for."""
    return HOP_LENGTH * int(config.subsampling_factor)


def subsampling_obstacle(config: Any, shape: EncoderShape) -> str:
    """The same of the convolutions in front."""
    widths = subsampling_widths(config, shape)
    return f"subsampling widths differ: {', '.join(map(str, widths))}" if len(set(widths)) > 1 else ""


def _family(model_type: str, stem: str, composite_model_types: Mapping[str, str]) -> Family:
    return Family(
        model_type=model_type,
        stem=stem,
        base_suffix="Encoder",
        composite_model_types=composite_model_types,
        samples_per_frame=samples_per_frame,
        layers_path="layers",
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"num_attention_heads": 0},
        fields=fields,
        stock_fields=stock_fields,
        attention_class=CutSharedAttention,
        apply_shape=apply_shape,
    )


FAMILIES = (
    _family(
        "parakeet_encoder",
        "Parakeet",
        {"ForCTC": "parakeet_ctc", "ForRNNT": "parakeet_rnnt", "ForTDT": "parakeet_tdt"},
    ),
    _family("nemotron_asr_streaming_encoder", "NemotronAsrStreaming", {"ForRNNT": "nemotron_asr_streaming"}),
)
