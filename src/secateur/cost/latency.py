"""Predicted time as a cost: measured times of blocks, interpolated at the sizes that gates expect.

    time = convolutions + projection + positional convolution + sum over layers of (attention + feed-forward + rest)

Every part is a piecewise linear function of widths that rises everywhere: of a convolution's inputs and outputs, of a
head's query/key and value/output dimensions, of feed-forward units. So there is a slope to learn from at every width. A
part that may be gone altogether counts by the probability that it is there, at the widths that are expected if it is; a
removed block costs nothing. At open probabilities of 0 and 1 the cost is the prediction for the closed selection,
exactly.

Heads of equal dimensions are computed together, and each such run takes something of its own. How many runs there are
is no smooth function of widths: heads are taken to be alike while their expected widths round to the same numbers. This
alone can make a cost rise when a unit is closed, the first one of a head that was like others before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.cost.expected import Cost, Terms
from secateur.cost.table import Table
from secateur.errors import ConfigError
from secateur.structure import Structure
from secateur.structure import wav2vec2 as names


class Prediction:
    """Predicted milliseconds of every part of a structure, given open probabilities.

    Attributes:
        paths: Module path of each part; empty for what belongs to none.
    """

    def __init__(self, terms: Terms, table: Table) -> None:
        """
        Args:
            terms: The structure's cost terms.
            table: Of the structure's architecture.

        Raises:
            ConfigError: The table is of another architecture.
        """
        structure = terms.structure
        self.alive, self.table = terms.alive, table
        _check_fit(structure, table)
        number = self.alive.number
        channels = [axis.name for axis in structure.of_kinds(("channels",))]
        layers = range(len(list(structure.of_kinds(("layer",)))))
        each = [(layer, head) for layer in layers for head in structure.axes[names.heads(layer)].units]
        self.channels = torch.tensor([number[name] for name in channels])
        self.groups = number.get(names.positional_groups())  # None where the positional convolution is no axis
        self.layers = torch.tensor([number[names.whole_layer(layer)] for layer in layers])
        self.blocks = torch.tensor([number[names.heads(layer)] for layer in layers])
        self.units = torch.tensor([number[names.feed_forward_units(layer)] for layer in layers])
        self.query_key = torch.tensor([number[names.query_key(*head)] for head in each], dtype=torch.long)
        self.value_output = torch.tensor([number[names.value_output(*head)] for head in each], dtype=torch.long)
        self.layer_of = torch.tensor([layer for layer, _ in each], dtype=torch.long)
        convolutions = [name.rpartition("/")[0] for name in channels]
        blocks = [[f"encoder.layers.{i}.{block}" for i in layers] for block in ("attention", "feed_forward")]
        rest = [f"encoder.layers.{layer}" for layer in layers]
        self.paths = [*convolutions, "feature_projection", "encoder.pos_conv_embed", *blocks[0], *blocks[1], *rest, ""]

    def __call__(self, open_probability: Tensor) -> Tensor:
        """(units,) -> (parts,) in float64."""
        table = self.table
        _, counts, there = self.alive(open_probability)
        channels = counts[self.channels]
        pairs = zip(table.convolutions, channels[:-1], channels[1:], strict=True)
        convolutions = [table.first_convolution.at(channels[0]), *(grid.at(i, o) for grid, i, o in pairs)]
        groups = channels.new_tensor(table.positional.widths[-1]) if self.groups is None else counts[self.groups]
        units = there[self.units]
        behind = [table.projection.at(channels[-1]), table.positional.at(groups)]
        return torch.cat(
            [
                torch.stack([*convolutions, *behind]),
                self._attention(counts, there),
                units * table.feed_forward.at(_if_there(counts[self.units], units)),
                there[self.layers] * table.layer,
                channels.new_tensor([table.rest]),
            ]
        )

    def _attention(self, counts: Tensor, there: Tensor) -> Tensor:
        """Expected counts and presence of every axis -> (layers,)."""
        own, alive = self.table.attention, there[self.value_output]
        query_key, value_output = (_if_there(counts[axes], alive) for axes in (self.query_key, self.value_output))
        heads = alive * (own.head + own.query_key.at(query_key) + own.value_output.at(value_output))
        alike = torch.stack([self.layer_of.double(), query_key.detach().round(), value_output.detach().round()])
        runs, run_of = torch.unique(alike, dim=1, return_inverse=True)
        there_too = alive.new_zeros(runs.shape[1]).scatter_reduce(0, run_of, alive, "amax")
        layers = (own.block * there[self.blocks]).index_add(0, self.layer_of, heads)
        return layers.index_add(0, runs[0].long(), own.run * there_too)


def latency(terms: Terms, table: Table, *, scope: str = "whole") -> Cost:
    """Predicted time as a cost.

    Args:
        terms: The structure's terms.
        table: Measured times.
        scope: ``whole``, ``encoder``, ``frontend`` or a module path.

    Raises:
        ConfigError: The table is of another architecture, or the scope has no time of its own.
    """
    structure = terms.structure
    structure.check_scope(scope)
    predict = Prediction(terms, table)
    inside = [scope == "whole" or (bool(path) and structure.in_scope(path, scope)) for path in predict.paths]
    if scope == "gated" or not any(inside):
        raise ConfigError(
            f"There is no latency of the scope {scope!r}; allowed are whole, encoder, frontend and the paths of "
            "convolutions, layers and their blocks."
        )
    factors = torch.tensor(inside, dtype=torch.float64)
    machine, identity = table.machine, table.identity
    return Cost(
        structure=structure,
        expected=lambda open_probability: predict(open_probability) @ factors,
        label=f"predicted latency of scope {scope}, {table.conditions}, for_inference on {machine} (table {identity})",
        unit="ms",
    )


def _if_there(counts: Tensor, there: Tensor) -> Tensor:
    """The count expected of something if it is there at all: expected counts and the probability that it is."""
    return counts / there.clamp_min(1e-30)


def _check_fit(structure: Structure, table: Table) -> None:
    """Raise a ConfigError when a table was measured for another architecture."""
    convolutions = [axis.original for axis in structure.of_kinds(("channels",))]
    curves = [table.first_convolution.widths, *(surface.outputs for surface in table.convolutions)]
    groups = [axis.original for axis in structure.of_kinds(("groups",))]
    grids = [
        (groups, [table.positional.widths[-1]] if groups else []),
        (convolutions, [grid[-1] for grid in curves]),
        ([convolutions[-1]], [table.projection.widths[-1]]),
        (sorted({axis.original for axis in structure.of_kinds(("units",))}), [table.feed_forward.widths[-1]]),
        (sorted({axis.original for axis in structure.of_kinds(("qk",))}), [table.attention.query_key.widths[-1]]),
        (sorted({axis.original for axis in structure.of_kinds(("vo",))}), [table.attention.value_output.widths[-1]]),
    ]
    if structure.model_type != table.model_type or any(wanted != got for wanted, got in grids):
        raise ConfigError(
            f"The table of latencies was measured for another architecture, a {table.model_type} with "
            f"{[int(grid[-1]) for grid in curves]} channels: remove it, and it is measured anew."
        )
