"""The shape of an encoder, dense or cut: which original units each part still has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from secateur.errors import ModelError
from secateur.structure import axis as names

#: Of the entry ``secateur`` in the configs of cut models.
FORMAT = 1


def parse_kept_units(record: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Kept units of the axes that are not whole, as an entry ``secateur`` has them; none where it is empty.

    Raises:
        ModelError: It is of another format, or no list of ascending units.
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
    """One attention block.

    Attributes:
        head_dim: Dimensions of a head in the original model.
        kept: Whether the block is there; without heads it is its output bias.
        heads: Original indices of its heads in storage order: heads of equal dimensions stand together.
        query_key: Kept query/key dimensions of each of those heads.
        value_output: Kept value/output dimensions of each of those heads, never empty.
    """

    head_dim: int
    is_kept: bool
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

    @property
    def count(self) -> int:
        """How many heads are left."""
        return len(self.heads)

    @property
    def has_all_dims(self) -> bool:
        """Whether the heads that are left have all their dimensions."""
        return all(len(dims) == self.head_dim for dims in (*self.query_key, *self.value_output))


@dataclass(frozen=True, kw_only=True)
class SharedAttentionShape:
    """One attention block whose heads share their dimensions.

    Attributes:
        head_dim: Dimensions of a head in the original model.
        is_kept: Whether the block is kept; a kept block without heads is its output bias.
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
        """Whether the heads that are left have all their dimensions."""
        return self.query_key == self.value_output == self.head_dim


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """A block with one axis of its own: whether it is there (without units it is its output bias), and its units."""

    is_kept: bool
    units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PositionalConvShape:
    """The positional convolution.

    Attributes:
        original: How many groups the original model has.
        groups: Those that are left.
        scales: What the output of each of those is multiplied by: it is added to the residual stream, so that there is
            no weight for a scale to fold into.
    """

    original_groups: int
    groups: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def is_stock(self) -> bool:
        """Whether this is the original's convolution."""
        return len(self.groups) == self.original_groups and all(scale == 1.0 for scale in self.scales)


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """All that pruning can change of an encoder, in original indices.

    Parts are asked for by module path, relative to the base model; what no cut has named is whole.

    Attributes:
        model_type: Type of the stock architecture.
        original: The dense model's remembered config fields.
        every_layer: Paths of the original layers.
        axes: Kept units of the axes that are not whole.
        scales: Of axes whose masks fold into no weight.
        factorised: How many ranks the matrix of each linear map that is two now had, by path.
    """

    model_type: str
    original: Mapping[str, Any]
    original_layers: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]
    scales: Mapping[str, tuple[float, ...]]
    factorized_ranks: Mapping[str, int]

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that are left; only trailing ones go."""
        return tuple(path for path in self.original_layers if self.units(names.layer(path), 1))

    @property
    def head_dim(self) -> int:
        """Dimensions of every head of the original model."""
        return int(self.original["hidden_size"]) // int(self.original["num_attention_heads"])

    def units(self, name: str, size: int) -> tuple[int, ...]:
        """Units that an axis of that original size still has."""
        return self.axes.get(name, tuple(range(size)))

    def ranks(self, path: str) -> tuple[int, ...]:
        """Ranks that a factorised linear map still has."""
        return self.units(names.ranks(path), self.factorized_ranks[path])

    def attention(self, path: str) -> AttentionShape:
        """An attention block."""
        heads = [
            (
                head,
                self.units(names.query_key(path, head), self.head_dim),
                self.units(names.value_output(path, head), self.head_dim),
            )
            for head in self.units(names.heads(path), int(self.original["num_attention_heads"]))
        ]
        heads.sort(key=lambda head: (-len(head[2]), -len(head[1]), head[0]))
        return AttentionShape(
            head_dim=self.head_dim,
            is_kept=bool(self.units(names.block(path), 1)),
            heads=tuple(head for head, _, _ in heads),
            query_key=tuple(qk for _, qk, _ in heads),
            value_output=tuple(vo for _, _, vo in heads),
        )

    def shared_attention(self, path: str) -> SharedAttentionShape:
        """Return the shape of the attention block at a path, whose heads share their dimensions."""
        return SharedAttentionShape(
            head_dim=self.head_dim,
            is_kept=bool(self.units(names.block(path), 1)),
            heads=len(self.units(names.heads(path), int(self.original["num_attention_heads"]))),
            query_key=len(self.units(names.shared_query_key(path), self.head_dim)),
            value_output=len(self.units(names.shared_value_output(path), self.head_dim)),
        )

    def feed_forward(self, path: str) -> BlockShape:
        """A feed-forward block."""
        return self.block(names.units(path), int(self.original["intermediate_size"]))

    def convolution(self, path: str) -> BlockShape:
        """The convolution module of a Conformer's layer."""
        return self.block(names.channels(path), int(self.original["hidden_size"]))

    def block(self, name: str, size: int) -> BlockShape:
        """The block that has an axis of that name and original size."""
        block_units = self.units(names.block(name.rpartition("/")[0]), 1)
        return BlockShape(is_kept=bool(block_units), units=self.units(name, size))

    def positions(self, name: str, size: int) -> PositionalConvShape:
        """The positional convolution whose groups are that axis."""
        groups = self.units(name, size)
        scales = self.scales.get(name, (1.0,) * len(groups))
        if len(scales) != len(groups):
            raise ModelError(f"The 'secateur' entry has {len(scales)} scales for the {len(groups)} units of {name!r}.")
        return PositionalConvShape(original_groups=size, groups=groups, scales=scales)
