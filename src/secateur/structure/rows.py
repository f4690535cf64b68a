"""Rows of a structure: axes along parameters, places of masks, and counts of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.structure.axis import Unit, ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class DimBinding:
    """Axes that lie along a dimension of a parameter, in storage order.

    Example: ``DimBinding(dim=1, axes=("a", "b"), width=2)`` with 3 units of ``a`` and 1 unit of ``b`` is a dimension of
    8 positions. Unit 1 of ``a`` is at positions 2 and 3, and the unit of ``b`` at positions 6 and 7.

    Attributes:
        dim: The dimension.
        axes: The axes; the same axis twice where a unit has two places along the dimension, as in front of a GLU.
        width: Positions of each unit.
        per_unit_of: Axis whose every unit has its own copy of the units of `axes`, as each head has dimensions of the
            same numbers; empty for none. With 2 heads and 3 shared dimensions, the 6 positions are dimensions 0, 1, 2
            of the first head, then 0, 1, 2 of the second.
    """

    dim: int
    axes: tuple[str, ...]
    width: int = 1
    per_unit_of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSite:
    """Place where the mask of axes is multiplied into a parameter or into the output of a module.

    Example: ``MaskSite(dim=1, axes=("heads",), repeats=(3, 2))`` multiplies the mask of the first head into positions
    0 to 2, and the mask of the second head into positions 3 and 4.

    Attributes:
        dim: The dimension; None for a factor on the whole parameter (axes of one unit).
        axes: Axes along the dimension, in storage order.
        repeats: Positions of each unit, in storage order; empty for one position per unit.
        tiles: Number of copies of the whole sequence along the dimension.
    """

    dim: int | None
    axes: tuple[str, ...]
    repeats: tuple[int, ...] = ()
    tiles: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """Parameter of the base model with axes and masks, or saved buffer with axes.

    Attributes:
        name: Name in the base model; for a head (`Structure.head`), name in the whole model.
        shape: Shape in this model.
        split: Shape in which the stock class stores the parameter, if different: some stock classes split a dimension
            into heads and their dimensions, which a cut model with unequal heads cannot.
        is_matrix: True for the weight matrix of a linear map or convolution (not a bias, norm or table).
        bindings: Dimensions that lie on axes.
        mask_sites: Masks that are multiplied into the parameter.
        exists_with: Unit without which the parameter does not exist (nor without the unit's parents); None for no such
            condition.
        exists_if_any: Axes of which at least one unit must be alive for the parameter to exist; empty for no such
            condition.
        magnitude: Parameter that sets the norm of this parameter (weight norm) and has to follow when parts of this
            parameter are cut; empty for none.
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
        """Path of the module that owns the parameter."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvStage:
    """Stage between samples and frames: a window of `kernel` positions every `stride` positions.

    Attributes:
        kernel: Positions of a window.
        stride: Positions from the start of a window to the start of the next window.
        padding: Positions added before and after the input, in total.
        min_windows: Fewer windows count as zero; a variance over windows, for example, needs two.
    """

    kernel: int
    stride: int
    padding: int = 0
    min_windows: int = 1

    def output_length(self, length: int) -> int:
        """Return the number of windows over `length` positions.

        Example with kernel 3 and stride 2: 7 positions have 3 windows, at positions 0, 2 and 4.
        """
        windows = (length + self.padding - self.kernel) // self.stride + 1 if length > 0 else 0
        return windows if windows >= self.min_windows else 0

    def min_input_length(self, windows: int) -> int:
        """Return the smallest number of positions, at least 1, with so many windows."""
        return max(1, (max(windows, self.min_windows) - 1) * self.stride + self.kernel - self.padding)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Feature extractor of a model that takes feature vectors instead of samples.

    Attributes:
        extractor: Class name of the extractor in `transformers`.
        width: Size of each vector.
        stages: Number of the structure's first stages that belong to the extractor.
        settings: Arguments of the extractor where the folder of a model has no settings file.
    """

    extractor: str
    width: int
    stages: int = 1
    settings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UseCount:
    """Number of uses of a weight in a forward pass.

    With L the length after `level` stages, the count is ``(L + extra) ** power * width``, times ``2 * L - 1`` if
    `per_distance` is set. Example with L = 4 frames: a linear map is used 4 times, attention's product of queries and
    keys 16 times (power 2), and the keys of relative positions 7 times (power 0, for distances -3 to 3).

    Attributes:
        level: Number of stages behind which the length is taken.
        extra: Positions added to that length.
        power: Exponent of the sum.
        per_distance: True for a factor ``2 * L - 1``, the number of distances between two frames.
        width: Further factor, such as the positions along the other dimension of a two-dimensional convolution.
    """

    level: int
    extra: int = 0
    power: int = 1
    per_distance: bool = False
    width: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MacTerm:
    """Multiply-accumulates (MACs) of a module: a weight matrix, or products over the units of axes.

    Attributes:
        module: Module path, for scopes and tables.
        use_count: Number of uses in a forward pass.
        weight: Name of the weight matrix; each use has one MAC per element. Empty for products over axes.
        axes: Axes with one MAC per living unit at each use (attention's two products).
        per_unit_of: Axis whose every unit has its own copy of the units of `axes`, as in `DimBinding`.
    """

    module: str
    use_count: UseCount
    weight: str = ""
    axes: tuple[str, ...] = ()
    per_unit_of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunedNorm:
    """LayerNorm along a pruned axis, with statistics over living units only."""

    module: str
    axis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedOutput:
    """Module with a mask on the output, because no weight behind the module reads the axis.

    The scales of such a mask fold into no weight: a cut model keeps the scales in its config.
    """

    module: str
    mask_site: MaskSite


@dataclass(frozen=True, kw_only=True, slots=True)
class Factorization:
    """Linear map W that is stored as two matrices, W = outer inner, with the ranks as an axis.

    Attributes:
        module: Path of the linear map.
        dense: The matrix W, which the model does not store: the name, shape and axes that W would have.
        mac_term: The multiply-accumulates of W.
    """

    module: str
    dense: Weight
    mac_term: MacTerm

    @property
    def axis(self) -> str:
        """Name of the axis of ranks."""
        return ranks(self.module)

    @property
    def inner(self) -> str:
        """Name of the matrix that is multiplied by the input, (ranks, in)."""
        return f"{self.module}.inner.weight"

    @property
    def outer(self) -> str:
        """Name of the matrix that gives the output, (out, ranks)."""
        return f"{self.module}.outer.weight"
