"""What keeps the library's classes, whose layers are all alike, from having a shape: in words, empty for nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from secateur.errors import SelectionError
from secateur.structure.encoder_shape import EncoderShape


def refuse(problem: str) -> None:
    """Raise a SelectionError that names an obstacle, where there is one."""
    if problem:
        raise SelectionError(f"This shape does not fit the stock layout: {problem}; use the registered layout.")


class Attention(Protocol):
    """An attention block: whether it is there, how many heads it has left, and whether these have all dimensions."""

    @property
    def kept(self) -> bool: ...

    @property
    def count(self) -> int: ...

    @property
    def whole(self) -> bool: ...


def of_attention(block: Attention, shape: EncoderShape, layer: int) -> str:
    """Of the attention block of a layer, given its number."""
    heads = int(shape.original["num_attention_heads"])
    if not block.kept:
        return f"the attention block of layer {layer} is removed"
    if block.count < heads:
        return f"layer {layer} has {block.count} of {heads} heads"
    return "" if block.whole else f"heads of layer {layer} have lost single dimensions"


def of_conformer(
    shape: EncoderShape, attention: Callable[[str], Attention], *, convolution: str, feed_forwards: Sequence[str]
) -> str:
    """Of a Conformer's layers.

    Args:
        shape: Of the encoder.
        attention: From a path to the attention block.
        convolution: What a layer calls its convolution module.
        feed_forwards: What it calls its feed-forward blocks.
    """
    width, front = int(shape.original["hidden_size"]), feed_forwards[0]
    first = len(shape.feed_forward(f"{shape.layers[0]}.{front}").units)
    for layer, path in enumerate(shape.layers):
        if problem := of_attention(attention(f"{path}.self_attn"), shape, layer):
            return problem
        channels = len(shape.convolution(f"{path}.{convolution}").units)
        if channels < width:
            return f"the convolution module of layer {layer} has {channels} of {width} channels"
        for name in feed_forwards:
            units = len(shape.feed_forward(f"{path}.{name}").units)
            if not units:
                return f"{name} of layer {layer} has no units left"
            if units != first:
                return f"feed-forward widths differ: {first} in {front} of layer 0, {units} in {name} of layer {layer}"
    return ""
