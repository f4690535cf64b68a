"""Structure of a model: the table of axes, parameters, masks and costs that masking, cost and surgery read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from secateur.errors import ConfigError, did_you_mean
from secateur.records.block_part import REST
from secateur.structure.axis import Axis
from secateur.structure.block import Block
from secateur.structure.rows import (
    ConvStage,
    Factorization,
    FeatureSpec,
    MacTerm,
    MaskedOutput,
    PrunedNorm,
    UseCount,
    Weight,
)

SCOPES = ("whole", "gated", "encoder", "frontend")

#: Scope of a transducer's head.
TRANSDUCER = "transducer"


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Prunable shape of a model.

    Attributes:
        model_type: Hugging Face model type of the stock architecture.
        axes: Axes by name.
        weights: Every parameter that the base model uses.
        mac_terms: Every counted multiply-accumulate.
        norms: LayerNorms along an axis.
        stages: Stages between samples and frames.
        convention: Sentence that says which operations the MACs count.
        sees_padding: True if padding changes valid frames, in stock code too: front ends with GroupNorm, and the
            positional norms of data2vec.
        blocks: Modules whose cost and time are shown, from input to output; a layer comes before the blocks in it.
        front_end: Module path of the part in front of the encoder's layers, for the scope ``frontend``.
        encoder: Module path of the layers, for the scope ``encoder``.
        outputs: Modules whose output is masked.
        buffers: Saved tensors that are no parameters, such as the statistics of a BatchNorm: cut like parameters, and
            not counted as parameters.
        unused: Parameters that the stock class has and never uses: not counted, and not part of a cut model.
        features: Feature vectors that the model takes, made by the first of the stages; None if it takes samples.
        factorizations: Linear maps that are stored as two matrices.
        head: Paths, in the whole model, of the parts of a transducer's head; empty without a head. All other paths and
            names are those of the base model.
    """

    model_type: str
    axes: Mapping[str, Axis]
    weights: tuple[Weight, ...]
    mac_terms: tuple[MacTerm, ...]
    norms: tuple[PrunedNorm, ...]
    stages: tuple[ConvStage, ...]
    convention: str
    sees_padding: bool
    blocks: tuple[Block, ...] = ()
    front_end: str = "feature_extractor"
    encoder: str = "encoder"
    outputs: tuple[MaskedOutput, ...] = ()
    buffers: tuple[Weight, ...] = ()
    unused: tuple[str, ...] = ()
    features: FeatureSpec | None = None
    factorizations: tuple[Factorization, ...] = ()
    head: tuple[str, ...] = ()
    weight_by_name: Mapping[str, Weight] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_by_name", {weight.name: weight for weight in (*self.weights, *self.buffers)})

    @cached_property
    def factorization_of(self) -> dict[str, Factorization]:
        """Factorized linear maps by the names of inner, outer and dense matrices."""
        return {
            name: factorization
            for factorization in self.factorizations
            for name in (factorization.inner, factorization.outer, factorization.dense.name)
        }

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Start of each axis in the flat vector of units: axes of 4, 2 and 3 units start at 0, 4 and 6."""
        offsets, total = {}, 0
        for name, axis in self.axes.items():
            offsets[name] = total
            total += axis.size
        return offsets

    @cached_property
    def size(self) -> int:
        """Number of units of the whole model, the length of the flat vector of units."""
        return sum(axis.size for axis in self.axes.values())

    def axis(self, name: str) -> Axis:
        """Return the axis of a name.

        Raises:
            ConfigError: The model has no such axis; the message contains the nearest name.
        """
        if name not in self.axes:
            raise ConfigError(
                f"There is no axis {name!r} in this {self.model_type} model.{did_you_mean(name, self.axes)}"
            )
        return self.axes[name]

    def axes_of_kinds(self, kinds: Sequence[str]) -> Iterator[Axis]:
        """Return the axes of the given kinds, in order."""
        return (axis for axis in self.axes.values() if axis.kind in kinds)

    def blocks_of_part(self, part: str) -> tuple[Block, ...]:
        """Return the blocks of a part of the encoder, from input to output."""
        return tuple(block for block in self.blocks if block.part == part)

    def block_of(self, path: str) -> Block | None:
        """Return the innermost block around a parameter or module path, or None."""
        # encoder.layers.0.attention.q_proj.weight, …q_proj, …attention: from the inside out.
        while path:
            if path in self._block_by_path:
                return self._block_by_path[path]
            path = path.rpartition(".")[0]
        return None

    @cached_property
    def timed_blocks(self) -> tuple[Block, ...]:
        """Blocks with times that can be added: no block inside a second block, and no whole layer.

        The convolutions of the front end are one block, ``feature_extractor`` or ``subsampling``.
        """
        candidates = [block for block in self.blocks if block.part != REST]
        return tuple(
            block
            for block in candidates
            if not any(outer is not block and outer.contains(block.path) for outer in candidates)
        )

    @cached_property
    def _block_by_path(self) -> dict[str, Block]:
        return {block.path: block for block in self.blocks}

    def lengths(self, samples: int) -> tuple[int, ...]:
        """Return the number of samples, then the length after each stage.

        Example with wav2vec 2.0's seven stages: 16,000 samples give (16000, 3199, 1599, 799, 399, 199, 99, 49).
        """
        lengths = [samples]
        for stage in self.stages:
            lengths.append(stage.output_length(lengths[-1]))
        return tuple(lengths)

    @cached_property
    def min_samples(self) -> int:
        """Smallest number of samples that gives a frame."""
        return self.min_samples_for(1)

    def min_samples_for(self, frames: int) -> int:
        """Return the smallest number of samples that gives so many frames."""
        length = frames
        # From the last stage to the first: each stage asks the stage before for the windows that it covers.
        for stage in reversed(self.stages):
            length = stage.min_input_length(length)
        return length

    def input_length(self, samples: int) -> int:
        """Return the length of the model's input for a number of samples: samples, or feature vectors."""
        return self.lengths(samples)[self.features.stages if self.features else 0]

    def input_shape(self, batch: int, samples: int) -> tuple[int, ...]:
        """Return the shape of a batch: (B, S), or (B, feature vectors, width of a vector)."""
        shape = batch, self.input_length(samples)
        return (*shape, self.features.width) if self.features else shape

    def count_uses(self, use_count: UseCount, samples: int) -> int:
        """Return the number of uses for a number of samples."""
        length = self.lengths(samples)[use_count.level]
        repeats = use_count.width * (2 * length - 1 if use_count.per_distance else 1)
        return (length + use_count.extra) ** use_count.power * repeats if length else 0

    def is_in_scope(self, path: str, scope: str) -> bool:
        """Return True if a parameter or module path belongs to a scope, which is not ``gated``."""
        if scope in ("whole", TRANSDUCER):
            return self.is_in_head(path) == (scope == TRANSDUCER)
        # A module path may be written with a final dot.
        prefix = {"frontend": self.front_end, "encoder": self.encoder}.get(scope, scope.rstrip("."))
        return path == prefix or path.startswith(prefix + ".")

    def is_in_head(self, path: str) -> bool:
        """Return True if a parameter or module path belongs to a transducer's head."""
        return any(path == part or path.startswith(part + ".") for part in self.head)

    @cached_property
    def without_head(self) -> Structure:
        """Structure of the encoder without a transducer's head."""
        axes = {name: axis for name, axis in self.axes.items() if not self.is_in_head(axis.path)}
        weights = tuple(weight for weight in self.weights if not self.is_in_head(weight.name))
        return replace(self, axes=axes, weights=weights, head=()) if self.head else self

    def check_scope(self, scope: str) -> None:
        """Raise a ConfigError if a scope contains no parameter of the model."""
        if scope == "gated" or any(self.is_in_scope(weight.name, scope) for weight in self.weights):
            return
        paths = {term.module for term in self.mac_terms}
        allowed = (*SCOPES, TRANSDUCER) if self.head else SCOPES
        raise ConfigError(
            f"The scope {scope!r} names no part of this {self.model_type} model; allowed are "
            f"{', '.join(allowed)} or a module path.{did_you_mean(scope, [*allowed, *paths, *self.head])}"
        )

    def counterpart(self, name: str) -> Weight:
        """Return the parameter of a name in the model without factorized linear maps.

        Example: ``q_proj.weight`` of a factorized map is the dense matrix, and ``q_proj.bias`` is the parameter
        ``q_proj.outer.bias``.
        """
        if name in self.weight_by_name:
            return self.weight_by_name[name]
        if name in self.factorization_of:
            return self.factorization_of[name].dense
        path, _, parameter = name.rpartition(".")
        return self.weight_by_name[f"{path}.outer.{parameter}"]

    def lies_on_gated_axis(self, weight: Weight, gated: frozenset[str]) -> bool:
        """Return True if a weight matrix has a dimension on a gated axis or on an axis inside a gated unit.

        The two matrices of a factorized map count as a single matrix.
        """
        factorization = self.factorization_of.get(weight.name)
        bindings = weight.bindings if factorization is None else factorization.dense.bindings
        # Dimensions that an axis repeats, such as heads, count as lying on that axis, too.
        is_touched = any(
            self.has_gated_axis((*binding.axes, *filter(None, [binding.per_unit_of])), gated) for binding in bindings
        )
        if factorization is None:
            return is_touched and weight.is_matrix
        return is_touched or factorization.axis in gated

    def has_gated_axis(self, axes: Sequence[str], gated: frozenset[str]) -> bool:
        """Return True if an axis is gated or lies inside a unit of a gated axis."""
        return any(name in gated or any(parent in gated for parent, _ in self.axes[name].parents) for name in axes)
