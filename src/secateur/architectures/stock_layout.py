"""What keeps the library's classes, whose layers are all alike, from having a shape: in words, empty for nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from secateur.errors import SelectionError
from secateur.structure.encoder_shape import EncoderShape


def raise_if_obstacle(problem: str) -> None:
    """Raise a SelectionError that names an obstacle, where there is one."""
    if problem:
        raise SelectionError(
            f"This shape does not fit the stock layout: {problem}; use the registered layout, the default of `shrink`."
        )


class AttentionLayout(Protocol):
    """An attention block: whether it is there, how many heads it has left, and whether these have all dimensions."""

    @property
    def is_kept(self) -> bool: ...

    @property
    def count(self) -> int: ...

    @property
    def has_all_dims(self) -> bool: ...


def attention_obstacle(block: AttentionLayout, shape: EncoderShape, layer: int) -> str:
    """Of the attention block of a layer, given its number."""
    heads = int(shape.original["num_attention_heads"])
    if not block.is_kept:
        return f"the attention block of layer {layer} is removed"
    if block.count < heads:
        return f"layer {layer} has {block.count} of {heads} heads"
    return "" if block.has_all_dims else f"heads of layer {layer} have lost single dimensions"


def conformer_obstacle(
    shape: EncoderShape,
    attention_shape: Callable[[str], AttentionLayout],
    *,
    convolution: str,
    feed_forwards: Sequence[str],
) -> str:
    """Of a Conformer's layers.

    Args:
        shape: Of the encoder.
        attention: From a path to the attention block.
        convolution: What a layer calls its convolution module.
        feed_forwards: What it calls its feed-forward blocks.
    """
    width, first_name = int(shape.original["hidden_size"]), feed_forwards[0]
    first_width = len(shape.feed_forward(f"{shape.layers[0]}.{first_name}").units)
    for layer, path in enumerate(shape.layers):
        if problem := attention_obstacle(attention_shape(f"{path}.self_attn"), shape, layer):
            return problem
        channels = len(shape.convolution(f"{path}.{convolution}").units)
        if channels < width:
            return f"the convolution module of layer {layer} has {channels} of {width} channels"
        for name in feed_forwards:
            units = len(shape.feed_forward(f"{path}.{name}").units)
            if not units:
                return f"{name} of layer {layer} has no units left"
            if units != first_width:
                return f"feed-forward widths differ: {first_width} in {first_name} of layer 0, {units} in {name} of layer {layer}"
    return ""
