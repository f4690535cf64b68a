"""The shape of an encoder, dense or cut, read from its config: which original units each part still has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.errors import ModelError
from secateur.structure import Selection, Structure
from secateur.structure import axis as names

FORMAT = 1

#: Config fields whose original values a cut config remembers.
REMEMBERED = (
    "model_type",
    "conv_dim",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
)


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """One attention block.

    Attributes:
        kept: Whether the block is there; without heads it is its output bias.
        heads: Original indices of its heads in storage order: heads of equal dimensions stand together.
        query_key: Kept query/key dimensions of each of those heads.
        value_output: Kept value/output dimensions of each of those heads, never empty.
    """

    kept: bool
    heads: tuple[int, ...]
    query_key: tuple[tuple[int, ...], ...]
    value_output: tuple[tuple[int, ...], ...]

    @property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """Runs of heads of equal shape: (heads, query/key dimensions, value/output dimensions) of each."""
        groups: list[tuple[int, int, int]] = []
        for qk, vo in zip(self.query_key, self.value_output, strict=True):
            if groups and groups[-1][1:] == (len(qk), len(vo)):
                groups[-1] = (groups[-1][0] + 1, len(qk), len(vo))
            else:
                groups.append((1, len(qk), len(vo)))
        return tuple(groups)


@dataclass(frozen=True, kw_only=True)
class FeedForwardShape:
    """One feed-forward block: whether it is there (without units it is its output bias), and its units."""

    kept: bool
    units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PositionShape:
    """The positional convolution.

    Attributes:
        original: How many groups the original model has.
        groups: Those that are left.
        scales: What the output of each of those is multiplied by: it is added to the residual stream, so that there is
            no weight for a scale to fold into.
    """

    original: int
    groups: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def is_stock(self) -> bool:
        """Whether this is the original's convolution."""
        return len(self.groups) == self.original and all(scale == 1.0 for scale in self.scales)


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """All that pruning can change of an encoder, in original indices.

    Attributes:
        model_type: Type of the stock architecture.
        original: The dense model's remembered config fields.
        channels: Kept output channels of each front-end layer.
        positions: The positional convolution.
        attention: The attention block of each remaining layer.
        feed_forward: The feed-forward block of each remaining layer.
    """

    model_type: str
    original: Mapping[str, Any]
    channels: tuple[tuple[int, ...], ...]
    positions: PositionShape
    attention: tuple[AttentionShape, ...]
    feed_forward: tuple[FeedForwardShape, ...]

    @property
    def head_dim(self) -> int:
        """Dimensions of every head of the original model."""
        return int(self.original["hidden_size"]) // int(self.original["num_attention_heads"])

    @property
    def has_heads(self) -> bool:
        """Whether any head is left in any layer."""
        return any(block.heads for block in self.attention)


def shape_of(config: Any) -> EncoderShape:
    """The shape that a stock config or a cut one describes."""
    record = getattr(config, "secateur", None) or {}
    original = record.get("original") or {name: getattr(config, name) for name in REMEMBERED}
    kept: Mapping[str, str] = record.get("axes", {})

    def units(name: str, size: int) -> tuple[int, ...]:
        return names.from_ranges(kept[name]) if name in kept else tuple(range(size))

    layers = range(sum(1 for i in range(original["num_hidden_layers"]) if units(names.whole_layer(i), 1)))
    head_dim = original["hidden_size"] // original["num_attention_heads"]

    def positions() -> PositionShape:
        name, count = names.positional_groups(), int(config.num_conv_pos_embedding_groups)
        groups = units(name, count)
        scales = tuple(float(scale) for scale in record.get("scales", {}).get(name, (1.0,) * len(groups)))
        if len(scales) != len(groups):
            raise ModelError(f"The 'secateur' entry has {len(scales)} scales for the {len(groups)} units of {name!r}.")
        return PositionShape(original=count, groups=groups, scales=scales)

    def attention(layer: int) -> AttentionShape:
        heads = [
            (
                head,
                units(names.query_key(layer, head), head_dim),
                units(names.value_output(layer, head), head_dim),
            )
            for head in units(names.heads(layer), original["num_attention_heads"])
        ]
        heads.sort(key=lambda head: (-len(head[2]), -len(head[1]), head[0]))
        return AttentionShape(
            kept=bool(units(names.attention_block(layer), 1)),
            heads=tuple(head for head, _, _ in heads),
            query_key=tuple(qk for _, qk, _ in heads),
            value_output=tuple(vo for _, _, vo in heads),
        )

    def feed_forward(layer: int) -> FeedForwardShape:
        return FeedForwardShape(
            kept=bool(units(names.feed_forward_block(layer), 1)),
            units=units(names.feed_forward_units(layer), original["intermediate_size"]),
        )

    return EncoderShape(
        model_type=original["model_type"],
        original=original,
        channels=tuple(units(names.channels(i), size) for i, size in enumerate(original["conv_dim"])),
        positions=positions(),
        attention=tuple(attention(layer) for layer in layers),
        feed_forward=tuple(feed_forward(layer) for layer in layers),
    )


def record_of(config: Any, structure: Structure, closed: Selection) -> dict[str, Any]:
    """The ``secateur`` entry of a cut config: original sizes, kept units of axes that are not whole, unfolded scales.

    Args:
        config: The config that was cut, stock or already cut once.
        structure: Its structure.
        closed: The closed selection that cuts it.
    """
    before = getattr(config, "secateur", None) or {}
    original = before.get("original") or {name: getattr(config, name) for name in REMEMBERED}
    axes = dict(before.get("axes", {}))
    axes |= {
        name: names.to_ranges(units)
        for name, units in closed.axes.items()
        if len(units) < structure.axes[name].original
    }
    scales = dict(before.get("scales", {}))
    for name in (name for output in structure.outputs for name in output.tap.axes):
        units = structure.axes[name].units
        so_far = dict(zip(units, scales.pop(name, (1.0,) * len(units)), strict=True))
        product = [so_far[unit] * factor for unit, factor in closed.factors(name).items()]
        scales |= {name: product} if set(product) != {1.0} else {}
    original = {name: list(value) if isinstance(value, tuple) else value for name, value in original.items()}
    return {"format": FORMAT, "original": original, "axes": axes} | ({"scales": scales} if scales else {})
