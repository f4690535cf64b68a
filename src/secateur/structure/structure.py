"""The table that masking, cost and surgery read: which parameter lies on which axis, and how often it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from secateur.errors import ConfigError, did_you_mean
from secateur.structure.axis import Axis, Unit, ranks
from secateur.structure.block import REST, Block

SCOPES = ("whole", "gated", "encoder", "frontend")

#: The scope of a transducer's head.
TRANSDUCER = "transducer"


@dataclass(frozen=True, kw_only=True, slots=True)
class DimBinding:
    """One dimension of a parameter: the axes that lie along it, one behind the other.

    Attributes:
        dim: The dimension.
        axes: The axes; the same one twice where a unit has two places along it, as in front of a GLU.
        width: How many positions each unit covers.
        across: An axis every unit of which has the units of `axes` for itself, as heads of one width have dimensions;
            empty for none.
    """

    dim: int
    axes: tuple[str, ...]
    width: int = 1
    per_unit_of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSite:
    """Where the mask of axes is multiplied into a parameter, or into what a module gives (`Output`).

    Attributes:
        dim: The dimension, or None for a factor on the whole parameter (axes of one unit).
        axes: The axes, one behind the other along `dim`.
        repeats: How many positions each unit covers, in storage order; empty for one each.
        times: How often all of that comes, one behind the other.
    """

    dim: int | None
    axes: tuple[str, ...]
    repeats: tuple[int, ...] = ()
    tiles: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A parameter of the base model and all that the axes do to it; or a buffer, which has binds alone.

    Attributes:
        name: Its name in the base model, or of a head (`Structure.head`) that in the whole model.
        shape: Its shape in this model.
        split: How the model stores it where that is not its shape: some stock classes split the one dimension into
            heads and their dimensions, which a cut model, whose heads differ, cannot.
        matrix: Whether it is the weight matrix of a linear map or convolution (not a bias, norm or table).
        binds: Dimensions that lie on axes.
        taps: Masks multiplied into it.
        within: A unit without which the parameter is not there (with the unit's ancestors).
        any_of: Axes of which a unit must be alive for the parameter to be there; empty for no such condition.
        magnitude: The parameter that sets this one's norm (weight norm), and so follows when a part of this one goes;
            empty for none.
    """

    name: str
    shape: tuple[int, ...]
    split: tuple[int, ...] = ()
    is_matrix: bool
    bindings: tuple[DimBinding, ...] = ()
    mask_sites: tuple[MaskSite, ...] = ()
    exists_with: Unit | None = None
    exists_if_any: tuple[str, ...] = ()
    magnitude: str = ""

    @property
    def module(self) -> str:
        """The path of the module that owns it."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvStage:
    """A step of the way from samples to frames: a window of `kernel` positions every `stride`.

    Attributes:
        kernel: Positions that a window covers.
        stride: Positions from one window to the next.
        padding: Positions added before and after, together.
        least: Fewer windows than this count as none; a variance over windows, for one, needs two.
    """

    kernel: int
    stride: int
    padding: int = 0
    min_windows: int = 1

    def output_length(self, length: int) -> int:
        """How many windows there are over `length` positions."""
        windows = (length + self.padding - self.kernel) // self.stride + 1 if length > 0 else 0
        return windows if windows >= self.min_windows else 0

    def min_input_length(self, windows: int) -> int:
        """The fewest positions that give that many windows, at least one."""
        return max(1, (max(windows, self.min_windows) - 1) * self.stride + self.kernel - self.padding)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """What a model hears that does not hear samples: vectors that a feature extractor makes of them.

    Attributes:
        extractor: The extractor's class in `transformers`.
        width: Numbers in each vector.
        stages: How many of the structure's first stages are the extractor's.
        settings: What the extractor is made with where a model's folder has none.
    """

    extractor: str
    width: int
    stages: int = 1
    settings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UseCount:
    """How many times a weight is used: ``(length after `level` stages + extra) ** power``, and more.

    Attributes:
        level: After how many stages.
        extra: Beside that length.
        power: Of both together.
        width: Times so many, such as places along the other dimension of a two-dimensional convolution.
        distances: Times the ``2 * length - 1`` distances between two frames.
    """

    level: int
    extra: int = 0
    power: int = 1
    per_distance: bool = False
    width: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MacTerm:
    """Multiply-accumulates of one module.

    Attributes:
        module: Module path, for scopes and tables.
        rate: How often.
        weight: The weight matrix multiplied each time; or
        axes: axes with one multiply-accumulate per living unit each time (attention's two products).
        across: An axis every unit of which has those units for itself, as in `Bind`.
    """

    module: str
    use_count: UseCount
    weight: str = ""
    axes: tuple[str, ...] = ()
    per_unit_of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunedNorm:
    """A LayerNorm across a pruned axis: its statistics are taken over living units only."""

    module: str
    axis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedOutput:
    """A module whose output carries a mask, because no weight behind it consumes the axis.

    Its scales fold into nothing: the cut model keeps them beside its shape.
    """

    module: str
    mask_site: MaskSite


@dataclass(frozen=True, kw_only=True, slots=True)
class Factorization:
    """A linear map W that is kept as two, W = outer inner, with the ranks between them as an axis.

    Attributes:
        module: Its path.
        dense: The matrix W, which the model does not have: its name if it were there, its shape, what it lies on.
        use: The multiply-accumulates of W.
    """

    module: str
    dense: Weight
    mac_term: MacTerm

    @property
    def axis(self) -> str:
        """The axis of its ranks."""
        return ranks(self.module)

    @property
    def inner(self) -> str:
        """The weight that meets the input, (ranks, in)."""
        return f"{self.module}.inner.weight"

    @property
    def outer(self) -> str:
        """The weight that makes the output, (out, ranks)."""
        return f"{self.module}.outer.weight"


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Everything that is known of one model's prunable shape.

    Attributes:
        model_type: Hugging Face model type of the architecture (never ours).
        axes: Axes by name.
        weights: Every parameter of the base model that it uses.
        buffers: Tensors beside them that are saved with the model, such as the statistics of a BatchNorm: cut like
            parameters, and counted nowhere.
        unused: Parameters that the stock class has and never uses: counted nowhere, and no part of a cut model.
        uses: Every counted multiply-accumulate.
        norms: LayerNorms crossed by an axis.
        outputs: Modules whose output carries a mask.
        factorised: Linear maps that are kept as two.
        head: Paths in the whole model of the parts of a transducer's head; empty without one. All other paths and names
            are of the base model.
        stages: The way from samples to frames.
        convention: What the MACs count and leave out, in words.
        blocks: Modules whose cost and time are shown, from input to output; a layer comes before the blocks in it.
        front_end: Module path of what comes before the encoder's layers, for the scope ``frontend``.
        encoder: Module path of the layers, for the scope ``encoder``.
        sees_padding: Whether padding changes valid frames, in stock code too: front ends with GroupNorm, and data2vec's
            positional norms.
        features: What the model hears instead of samples, made by the first of the stages; None of samples.
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
        """The factorised map that a matrix belongs to, by the name of any of its two and of the one they stand for."""
        return {
            name: factorization
            for factorization in self.factorizations
            for name in (factorization.inner, factorization.outer, factorization.dense.name)
        }

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each axis starts in the flat vector of all units."""
        offsets, total = {}, 0
        for name, axis in self.axes.items():
            offsets[name] = total
            total += axis.size
        return offsets

    @cached_property
    def size(self) -> int:
        """Units of all axes together."""
        return sum(axis.size for axis in self.axes.values())

    def axis(self, name: str) -> Axis:
        """The axis of that name.

        Raises:
            ConfigError: There is none; the nearest name is told.
        """
        if name not in self.axes:
            raise ConfigError(
                f"There is no axis {name!r} in this {self.model_type} model.{did_you_mean(name, self.axes)}"
            )
        return self.axes[name]

    def blocks_of_part(self, part: str) -> tuple[Block, ...]:
        """Return the blocks of a part of the encoder, from input to output."""
        return tuple(block for block in self.blocks if block.part == part)

    def block_of(self, path: str) -> Block | None:
        """Return the innermost block that a parameter or module path lies in; None outside of all blocks."""
        while path:
            if path in self._block_by_path:
                return self._block_by_path[path]
            path = path.rpartition(".")[0]
        return None

    @cached_property
    def timed_blocks(self) -> tuple[Block, ...]:
        """Blocks whose times can be added up: no block lies inside another, and no block is a whole layer.

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

    def axes_of_kinds(self, kinds: Sequence[str]) -> Iterator[Axis]:
        """Axes of the given kinds, in order."""
        return (axis for axis in self.axes.values() if axis.kind in kinds)

    def lengths(self, samples: int) -> tuple[int, ...]:
        """Samples, then the length after each stage."""
        lengths = [samples]
        for stage in self.stages:
            lengths.append(stage.output_length(lengths[-1]))
        return tuple(lengths)

    @cached_property
    def min_samples(self) -> int:
        """The fewest samples that give one frame."""
        return self.min_samples_for(1)

    def min_samples_for(self, frames: int) -> int:
        """Return the fewest samples that give that many frames."""
        length = frames
        for stage in reversed(self.stages):
            length = stage.min_input_length(length)
        return length

    def input_length(self, samples: int) -> int:
        """How many positions the model hears of so many samples: samples, or vectors of features."""
        return self.lengths(samples)[self.features.stages if self.features else 0]

    def input_shape(self, batch: int, samples: int) -> tuple[int, ...]:
        """The shape of what the model hears of a batch: (B, S), or (B, features' length, features' width)."""
        shape = batch, self.input_length(samples)
        return (*shape, self.features.width) if self.features else shape

    def count_uses(self, use_count: UseCount, samples: int) -> int:
        """How often something of this rate happens on `samples` samples of audio."""
        length = self.lengths(samples)[use_count.level]
        repeats = use_count.width * (2 * length - 1 if use_count.per_distance else 1)
        return (length + use_count.extra) ** use_count.power * repeats if length else 0

    def is_in_scope(self, path: str, scope: str) -> bool:
        """Whether a parameter or module path belongs to a scope other than ``gated``."""
        if scope in ("whole", TRANSDUCER):
            return self.is_in_head(path) == (scope == TRANSDUCER)
        prefix = {"frontend": self.front_end, "encoder": self.encoder}.get(scope, scope.rstrip("."))
        return path == prefix or path.startswith(prefix + ".")

    def is_in_head(self, path: str) -> bool:
        """Whether a parameter or module path is of a transducer's head."""
        return any(path == part or path.startswith(part + ".") for part in self.head)

    @cached_property
    def without_head(self) -> Structure:
        """That of the encoder alone."""
        axes = {name: axis for name, axis in self.axes.items() if not self.is_in_head(axis.path)}
        weights = tuple(weight for weight in self.weights if not self.is_in_head(weight.name))
        return replace(self, axes=axes, weights=weights, head=()) if self.head else self

    def check_scope(self, scope: str) -> None:
        """Raise a ConfigError when a scope names nothing."""
        if scope == "gated" or any(self.is_in_scope(weight.name, scope) for weight in self.weights):
            return
        paths = {term.module for term in self.mac_terms}
        allowed = (*SCOPES, TRANSDUCER) if self.head else SCOPES
        raise ConfigError(
            f"The scope {scope!r} names no part of this {self.model_type} model; allowed are "
            f"{', '.join(allowed)} or a module path.{did_you_mean(scope, [*allowed, *paths, *self.head])}"
        )

    def counterpart(self, name: str) -> Weight:
        """The parameter of that name, also where the linear map that would have it is factorised here."""
        if name in self.weight_by_name:
            return self.weight_by_name[name]
        if name in self.factorization_of:
            return self.factorization_of[name].dense
        path, _, parameter = name.rpartition(".")
        return self.weight_by_name[f"{path}.outer.{parameter}"]

    def lies_on_gated_axis(self, weight: Weight, gated: frozenset[str]) -> bool:
        """Whether a weight matrix has a dimension on a gated axis, or on one inside a gated unit.

        The two matrices of a factorised map are taken together.
        """
        factorization = self.factorization_of.get(weight.name)
        bindings = weight.bindings if factorization is None else factorization.dense.bindings
        is_touched = any(
            self.has_gated_axis((*binding.axes, *filter(None, [binding.per_unit_of])), gated) for binding in bindings
        )
        return is_touched and weight.is_matrix if factorization is None else is_touched or factorization.axis in gated

    def has_gated_axis(self, axes: Sequence[str], gated: frozenset[str]) -> bool:
        """Whether any of these axes is gated or lies within a gated axis."""
        return any(name in gated or any(parent in gated for parent, _ in self.axes[name].parents) for name in axes)
