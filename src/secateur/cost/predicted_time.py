"""Predicted time as a cost: measured times of blocks, interpolated at expected sizes.

    time = convolutions + projection + positional convolution + sum over layers of (attention + feed-forward + rest)

Every part is a piecewise linear function of widths that rises everywhere: of a convolution's inputs and outputs, of a
head's query/key and value/output dimensions, of feed-forward units. So there is a gradient at every width. A part that
can be removed as a whole counts by the probability that it is present, at its expected widths if present; a removed
block costs nothing. At open probabilities of 0 and 1 the cost is exactly the prediction for the normalized selection.

Example: a feed-forward block takes 1 ms at 0 units and 5 ms at 100, linear in between. Its units are present with
probability 0.5, and 20 of them are expected to be alive: 40 if the block is present, which take 1 + 0.4 * 4 = 2.6 ms,
so the block is predicted to take 0.5 * 2.6 = 1.3 ms.

Heads of equal dimensions are computed together, and each such run takes a time of its own. The number of runs is no
smooth function of widths: heads count as equal if their expected widths round to the same numbers. This is the only way
in which a cost can rise when a unit is closed: the first closed unit of a head that was equal to others before.

Factorized maps are not measured. A feed-forward block of u units is two products of D features and u units, so one
product takes half the time of its units, and a product of D' features takes D' / D of that. The two products of a
factorized map are predicted in this way, as is the dense product that they replace in the time of its block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.cost.expected import Cost, FactorizedForm, Terms
from secateur.cost.latency_table import LatencyCurve, LatencyTable
from secateur.cost.liveness import Presence
from secateur.errors import ConfigError
from secateur.records.block_part import ATTENTION, FEED_FORWARD, POSITIONAL_CONV, PROJECTION, REST
from secateur.structure import Structure
from secateur.structure import axis as names


class LatencyPredictor:
    """Predicted milliseconds of every part of a structure, given open probabilities.

    Attributes:
        paths: Module path of each part; empty for the rest of the model.
    """

    def __init__(self, terms: Terms, table: LatencyTable) -> None:
        """
        Args:
            terms: The structure's cost terms.
            table: Table of the structure's architecture.

        Raises:
            ConfigError: The table is of another architecture.
        """
        structure = terms.structure
        self.liveness, self.table = terms.liveness, table
        _check_architecture(structure, table)
        axis_index = self.liveness.axis_index
        channels = [axis.name for axis in structure.axes_of_kinds(("channels",))]
        # Paths of the whole layers and of their blocks, by index of the layer.
        layer_paths, attention_paths, feed_forward_paths = (
            [block.path for block in structure.blocks_of_part(part)] for part in (REST, ATTENTION, FEED_FORWARD)
        )
        # The heads of all layers in a row, by original index: layer, query/key axis, value/output axis.
        heads = [
            (layer, names.query_key(path, head), names.value_output(path, head))
            for layer, path in enumerate(attention_paths)
            for head in structure.axes[names.heads(path)].units
        ]
        groups = next(structure.axes_of_kinds(("groups",)), None)
        self.channels = torch.tensor([axis_index[name] for name in channels])
        self.groups = None if groups is None else axis_index[groups.name]
        self.layers = torch.tensor([axis_index[names.layer(path)] for path in layer_paths])
        self.blocks = torch.tensor([axis_index[names.heads(path)] for path in attention_paths])
        self.units = torch.tensor([axis_index[names.units(path)] for path in feed_forward_paths])
        self.query_key = torch.tensor([axis_index[query_key] for _, query_key, _ in heads], dtype=torch.long)
        self.value_output = torch.tensor([axis_index[value_output] for *_, value_output in heads], dtype=torch.long)
        self.layer_of_head = torch.tensor([layer for layer, *_ in heads], dtype=torch.long)
        single_blocks = (structure.blocks_of_part(part)[0] for part in (PROJECTION, POSITIONAL_CONV))
        # In the order of the parts that `_dense` concatenates.
        self.paths = [
            *(name.rpartition("/")[0] for name in channels),  # "….conv_layers.0/channels" -> "….conv_layers.0"
            *(block.path for block in single_blocks),
            *attention_paths,
            *feed_forward_paths,
            *layer_paths,
            "",
        ]
        self.products = FactorizedProducts(terms, table.feed_forward, self.paths) if structure.factorizations else None

    def __call__(self, open_probability: Tensor, form: FactorizedForm = "factorized") -> Tensor:
        """Predict the milliseconds of each part: (units,) -> (parts,) in float64."""
        parts = self._dense(open_probability)
        return parts if self.products is None or form == "dense" else parts + self.products(open_probability, form)

    def _dense(self, open_probability: Tensor) -> Tensor:
        """Predict all parts, with factorized maps taken as dense: (units,) -> (parts,)."""
        table = self.table
        units = self.liveness(open_probability)
        counts, p_present = units.counts, units.p_present
        channels = counts[self.channels]
        # The outputs of a convolution are the inputs of the next.
        pairs = zip(table.convolutions, channels[:-1], channels[1:], strict=True)
        convolutions = [
            table.first_convolution.interpolate(channels[0]),
            *(grid.interpolate(i, o) for grid, i, o in pairs),
        ]
        groups = channels.new_tensor(table.positional.widths[-1]) if self.groups is None else counts[self.groups]
        p_feed_forward = p_present[self.units]
        projection_and_positional = [table.projection.interpolate(channels[-1]), table.positional.interpolate(groups)]
        return torch.cat(
            [
                torch.stack([*convolutions, *projection_and_positional]),
                self._attention(counts, p_present),
                p_feed_forward * table.feed_forward.interpolate(_conditional_count(counts[self.units], p_feed_forward)),
                p_present[self.layers] * table.layer,
                channels.new_tensor([table.rest]),
            ]
        )

    def _attention(self, counts: Tensor, p_present: Tensor) -> Tensor:
        """Predict the attention block of each layer from counts and presence of every axis: (axes,) -> (layers,)."""
        times, p_heads = self.table.attention, p_present[self.value_output]
        query_key, value_output = (
            _conditional_count(counts[axes], p_heads) for axes in (self.query_key, self.value_output)
        )
        heads = p_heads * (
            times.head + times.query_key.interpolate(query_key) + times.value_output.interpolate(value_output)
        )
        # (3, heads): the layer and the rounded dimensions, which are equal within a run
        head_keys = torch.stack(
            [self.layer_of_head.double(), query_key.detach().round(), value_output.detach().round()]
        )
        runs, run_index = torch.unique(head_keys, dim=1, return_inverse=True)  # (3, runs), (heads,)
        # A run is present if any of its heads is; the largest probability of a head is a lower bound of that.
        p_runs = p_heads.new_zeros(runs.shape[1]).scatter_reduce(0, run_index, p_heads, "amax")
        layers = (times.block * p_present[self.blocks]).index_add(0, self.layer_of_head, heads)
        return layers.index_add(0, runs[0].long(), times.run * p_runs)  # runs[0]: the layer of each run


class FactorizedProducts:
    """Extra time of factorized maps over the dense maps in the same place, in each part of a prediction."""

    def __init__(self, terms: Terms, feed_forward: LatencyCurve, paths: Sequence[str]) -> None:
        """
        Args:
            terms: The structure's cost terms.
            feed_forward: Milliseconds of a block of D features by its units.
            paths: Module path of each part.
        """
        structure, self.liveness, self.curve = terms.structure, terms.liveness, feed_forward
        axis_index, linears = self.liveness.axis_index, structure.factorizations
        (projection,) = structure.blocks_of_part(PROJECTION)
        self.features = structure.counterpart(f"{projection.path}.projection.bias").shape[0]
        self.ranks = torch.tensor([axis_index[linear.axis] for linear in linears])
        linear_axes = [structure.axes[linear.axis].requires_any for linear in linears]
        self.presence = Presence(self.liveness, linear_axes)
        self.part_index = torch.tensor([_part_index(linear.module, paths) for linear in linears])
        self.num_parts = len(paths)
        # Dense outputs and inputs of each map, (maps, 2), and the axes that lie along some of them.
        self.sizes = torch.tensor([linear.dense.shape for linear in linears], dtype=torch.float64)
        self.bindings = [
            (index, bind.dim, bind.width, torch.tensor([axis_index[name] for name in bind.axes]))
            for index, linear in enumerate(linears)
            for bind in linear.dense.bindings
        ]

    def __call__(self, open_probability: Tensor, form: FactorizedForm) -> Tensor:
        """Predict the extra milliseconds of each part: (units,) -> (parts,)."""
        counts = self.liveness(open_probability).counts
        p_present, ranks = self.presence(open_probability), counts[self.ranks]
        sizes = self.sizes.clone()
        for index, dim, width, axes in self.bindings:
            sizes[index, dim] = width * _conditional_count(counts[axes].sum(), p_present[index])
        bound_dims = [(index, dim) for index, dim, _, _ in self.bindings]
        # One product between the features that lie on no axis and the units that do.
        unit_dims = torch.tensor([int((index, 0) not in bound_dims) for index in range(len(sizes))])
        # (maps, 2) -> (maps,)
        units, features = (sizes.gather(1, dim[:, None])[:, 0] for dim in (unit_dims, 1 - unit_dims))
        extra_ms = self._product(ranks, sizes.sum(1)) - self._product(units, features)
        # Two matrices have ranks * (outputs + inputs) elements, a single one outputs * inputs.
        if form == "cheaper":
            extra_ms = extra_ms * (ranks * sizes.sum(1) < sizes.prod(1))
        return torch.zeros(self.num_parts, dtype=extra_ms.dtype).index_add(0, self.part_index, p_present * extra_ms)

    def _product(self, units: Tensor, features: Tensor) -> Tensor:
        """Predict the milliseconds of a matrix product of features and units, for each map."""
        # A feed-forward block is two products, hence / 2; its constant time, ms[0], belongs to neither.
        return (self.curve.interpolate(units) - self.curve.ms[0]) / 2 * features / self.features


def _part_index(module: str, paths: Sequence[str]) -> int:
    """Return the index of the innermost part around a module."""
    containing_parts = [index for index, path in enumerate(paths) if path and module.startswith(f"{path}.")]
    return max(containing_parts, key=lambda index: len(paths[index])) if containing_parts else len(paths) - 1


def latency(terms: Terms, table: LatencyTable, *, scope: str = "whole") -> Cost:
    """Make a cost from predicted times.

    Args:
        terms: The structure's terms.
        table: Measured times.
        scope: ``whole``, ``encoder``, ``frontend`` or a module path.

    Raises:
        ConfigError: The table is of another architecture, or the scope has no predicted time.
    """
    structure = terms.structure
    structure.check_scope(scope)
    predict = LatencyPredictor(terms, table)
    is_in_scope = [scope == "whole" or (bool(path) and structure.is_in_scope(path, scope)) for path in predict.paths]
    if scope == "gated" or not any(is_in_scope):
        raise ConfigError(
            f"There is no latency of the scope {scope!r}; allowed are whole, encoder, frontend and the paths of "
            "convolutions, layers and their blocks."
        )
    factors = torch.tensor(is_in_scope, dtype=torch.float64)
    machine, identity = table.machine, table.identity
    return Cost(
        structure=structure,
        value=lambda open_probability, form: predict(open_probability, form) @ factors,
        label=f"predicted latency of scope {scope}, {table.conditions}, for_inference on {machine} (table {identity})",
        unit="ms",
    )


def _conditional_count(counts: Tensor, p_present: Tensor) -> Tensor:
    """Return the expected count of units under the condition that the block around the units is present."""
    # E[n] = P(present) * E[n | present]; a block that is never present has E[n] = 0, and 0 / 1e-30 = 0.
    return counts / p_present.clamp_min(1e-30)


def _check_architecture(structure: Structure, table: LatencyTable) -> None:
    """Raise a ConfigError when a table was measured for another architecture."""
    convolutions = [axis.original for axis in structure.axes_of_kinds(("channels",))]
    curves = [table.first_convolution.widths, *(surface.outputs for surface in table.convolutions)]
    groups = [axis.original for axis in structure.axes_of_kinds(("groups",))]
    grids = [
        (groups, [table.positional.widths[-1]] if groups else []),
        (convolutions, [grid[-1] for grid in curves]),
        ([convolutions[-1]], [table.projection.widths[-1]]),
        (sorted({axis.original for axis in structure.axes_of_kinds(("units",))}), [table.feed_forward.widths[-1]]),
        (sorted({axis.original for axis in structure.axes_of_kinds(("qk",))}), [table.attention.query_key.widths[-1]]),
        (
            sorted({axis.original for axis in structure.axes_of_kinds(("vo",))}),
            [table.attention.value_output.widths[-1]],
        ),
    ]
    if structure.model_type != table.model_type or any(
        expected_widths != table_widths for expected_widths, table_widths in grids
    ):
        raise ConfigError(
            f"The table of latencies was measured for another architecture, a {table.model_type} with "
            f"{[int(grid[-1]) for grid in curves]} channels: remove it, and it is measured anew."
        )
