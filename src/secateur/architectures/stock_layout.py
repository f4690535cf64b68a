"""Reasons why stock classes with layers of equal shape cannot express a shape.

A reason is a phrase for an error message, and empty if the stock classes can express the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from secateur.errors import SelectionError
from secateur.structure.encoder_shape import EncoderShape


def raise_if_obstacle(problem: str) -> None:
    """Raise a SelectionError with the reason unless the reason is empty."""
    if problem:
        raise SelectionError(
            f"This shape does not fit the stock layout: {problem}; use the registered layout, the default of `shrink`."
        )


class AttentionLayout(Protocol):
    """Shape of an attention block, with shared dimensions or with dimensions of single heads."""

    @property
    def is_kept(self) -> bool: ...

    @property
    def count(self) -> int: ...

    @property
    def has_all_dims(self) -> bool: ...


def attention_obstacle(block: AttentionLayout, shape: EncoderShape, layer: int) -> str:
    """Return the reason for the attention block of a layer, given the layer's index."""
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
    """Return the reason for the layers of a Conformer.

    Args:
        shape: Shape of the encoder.
        attention_shape: Returns the shape of the attention block at a path.
        convolution: Name of the convolution module of a layer.
        feed_forwards: Names of the feed-forward blocks of a layer.
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
                first_text = f"{first_width} in {first_name} of layer 0"
                return f"feed-forward widths differ: {first_text}, {units} in {name} of layer {layer}"
    return ""
