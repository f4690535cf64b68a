"""Shape of an encoder, dense or cut: the original units that are left in each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from secateur.errors import ModelError
from secateur.structure import axis as names

#: Format of the entry ``secateur`` in the configs of cut models.
FORMAT = 1


def parse_kept_units(record: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the kept units of the pruned axes in a config's entry ``secateur``, which may be empty.

    Example: ``{"format": 1, "axes": {"encoder.layers.0.attention/heads": "0-2,5"}}`` keeps heads 0, 1, 2 and 5.

    Raises:
        ModelError: The entry has another format, or the units of an axis are not in ascending order.
    """
    if record and record.get("format") != FORMAT:
        raise ModelError(f"The 'secateur' entry has the format {record.get('format')!r}; allowed is {FORMAT}.")
    axes = {}
    for name, text in record.get("axes", {}).items():
        try:
            units = names.from_ranges(text)
        except (ValueError, AttributeError):
            units = None
        if units is None or any(smaller >= larger for smaller, larger in pairwise(units)):
            raise ModelError(
                f"The 'secateur' entry keeps {text!r} of the axis {name!r}; allowed are ascending units and ranges, "
                "such as '0-3,7'."
            )
        axes[name] = units
    return axes


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Attention block with separate dimensions per head.

    Attributes:
        head_dim: Dimensions of a head in the original model.
        is_kept: True if the block is kept; a kept block without heads is its output bias.
        heads: Original indices of the heads in storage order: heads of equal dimensions stand together.
        query_key: Kept query/key dimensions of each head.
        value_output: Kept value/output dimensions of each head, never empty.
    """

    head_dim: int
    is_kept: bool
    heads: tuple[int, ...]
    query_key: tuple[tuple[int, ...], ...]
    value_output: tuple[tuple[int, ...], ...]

    @property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """Runs of heads of equal shape, as (heads, query/key dimensions, value/output dimensions).

        Example: heads of (query/key, value/output) dimensions (8, 8), (8, 8), (5, 8) are two runs, (2, 8, 8) and
        (1, 5, 8).
        """
        groups: list[tuple[int, int, int]] = []
        for qk, vo in zip(self.query_key, self.value_output, strict=True):
            if groups and groups[-1][1:] == (len(qk), len(vo)):
                groups[-1] = (groups[-1][0] + 1, len(qk), len(vo))
            else:
                groups.append((1, len(qk), len(vo)))
        return tuple(groups)

    @property
    def count(self) -> int:
        """Number of heads that are left."""
        return len(self.heads)

    @property
    def has_all_dims(self) -> bool:
        """True if no head has lost a dimension."""
        return all(len(dims) == self.head_dim for dims in (*self.query_key, *self.value_output))


@dataclass(frozen=True, kw_only=True)
class SharedAttentionShape:
    """Attention block with the same dimensions in every head.

    Attributes:
        head_dim: Dimensions of a head in the original model.
        is_kept: True if the block is kept; a kept block without heads is its output bias.
        heads: Number of heads that are left; 0 if no value/output dimension is left.
        query_key: Query/key dimensions of each head.
        value_output: Value/output dimensions of each head.
    """

    head_dim: int
    is_kept: bool
    heads: int
    query_key: int
    value_output: int

    @property
    def count(self) -> int:
        """Number of heads that are left."""
        return self.heads

    @property
    def has_all_dims(self) -> bool:
        """True if no head has lost a dimension."""
        return self.query_key == self.value_output == self.head_dim


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Block with a single axis: the units that are left, and whether the block is kept.

    A kept block without units is its output bias.
    """

    is_kept: bool
    units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PositionalConvShape:
    """Positional convolution.

    Attributes:
        original_groups: Number of groups of the original model.
        groups: Groups that are left.
        scales: Factor on the output of each group. The output is added to the residual stream, so that the factor
            folds into no weight.
    """

    original_groups: int
    groups: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def is_stock(self) -> bool:
        """True if the stock module can express the convolution."""
        return len(self.groups) == self.original_groups and all(scale == 1.0 for scale in self.scales)


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Parts of an encoder that pruning can change, in original indices.

    Methods take module paths, relative to the base model. An axis that no cut has named is whole.

    Attributes:
        model_type: Model type of the stock architecture.
        original: Remembered config fields of the dense model.
        original_layers: Paths of the layers of the dense model.
        axes: Kept units of the pruned axes.
        scales: Scales of the axes whose masks fold into no weight.
        factorized_ranks: Original number of ranks of each factorized linear map, by path.
    """

    model_type: str
    original: Mapping[str, Any]
    original_layers: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]
    scales: Mapping[str, tuple[float, ...]]
    factorized_ranks: Mapping[str, int]

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that are left; only trailing layers can be removed."""
        return tuple(path for path in self.original_layers if self.units(names.layer(path), 1))

    @property
    def head_dim(self) -> int:
        """Dimensions of a head of the original model."""
        return int(self.original["hidden_size"]) // int(self.original["num_attention_heads"])

    def units(self, name: str, size: int) -> tuple[int, ...]:
        """Return the units that are left of an axis, given the original number of units."""
        return self.axes.get(name, tuple(range(size)))

    def ranks(self, path: str) -> tuple[int, ...]:
        """Return the ranks that are left of a factorized linear map."""
        return self.units(names.ranks(path), self.factorized_ranks[path])

    def attention(self, path: str) -> AttentionShape:
        """Return the shape of an attention block.

        Heads are sorted by falling numbers of value/output and query/key dimensions, then by index, so that heads of
        equal dimensions stand together.
        """
        heads = [
            (
                head,
                self.units(names.query_key(path, head), self.head_dim),
                self.units(names.value_output(path, head), self.head_dim),
            )
            for head in self.units(names.heads(path), int(self.original["num_attention_heads"]))
        ]
        # (head, query/key, value/output): heads of equal dimensions become neighbors.
        heads.sort(key=lambda head: (-len(head[2]), -len(head[1]), head[0]))
        return AttentionShape(
            head_dim=self.head_dim,
            is_kept=bool(self.units(names.block(path), 1)),
            heads=tuple(head for head, _, _ in heads),
            query_key=tuple(qk for _, qk, _ in heads),
            value_output=tuple(vo for _, _, vo in heads),
        )

    def shared_attention(self, path: str) -> SharedAttentionShape:
        """Return the shape of an attention block with the same dimensions in every head."""
        return SharedAttentionShape(
            head_dim=self.head_dim,
            is_kept=bool(self.units(names.block(path), 1)),
            heads=len(self.units(names.heads(path), int(self.original["num_attention_heads"]))),
            query_key=len(self.units(names.shared_query_key(path), self.head_dim)),
            value_output=len(self.units(names.shared_value_output(path), self.head_dim)),
        )

    def feed_forward(self, path: str) -> BlockShape:
        """Return the shape of a feed-forward block."""
        return self.block(names.units(path), int(self.original["intermediate_size"]))

    def convolution(self, path: str) -> BlockShape:
        """Return the shape of the convolution module of a Conformer's layer."""
        return self.block(names.channels(path), int(self.original["hidden_size"]))

    def block(self, name: str, size: int) -> BlockShape:
        """Return the shape of the block with an axis of the given name and original size."""
        block_units = self.units(names.block(name.rpartition("/")[0]), 1)
        return BlockShape(is_kept=bool(block_units), units=self.units(name, size))

    def positions(self, name: str, size: int) -> PositionalConvShape:
        """Return the shape of the positional convolution with an axis of groups of the given name and original size."""
        groups = self.units(name, size)
        scales = self.scales.get(name, (1.0,) * len(groups))
        if len(scales) != len(groups):
            raise ModelError(f"The 'secateur' entry has {len(scales)} scales for the {len(groups)} units of {name!r}.")
        return PositionalConvShape(original_groups=size, groups=groups, scales=scales)
