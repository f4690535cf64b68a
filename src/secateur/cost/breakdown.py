"""Parameters, MACs and predicted time of a model by block, for `profile` and the report."""

from __future__ import annotations

import torch

from secateur.cost.expected import COSTS, FactorizedForm, Terms, indicator
from secateur.cost.latency_table import LatencyTable
from secateur.cost.predicted_time import LatencyPredictor
from secateur.records.costs import Breakdown, CostRecord
from secateur.structure import Selection, Structure

#: Kinds of axes whose modules are blocks of their own, and a block that may have no such axis.
_BLOCK_AXIS_KINDS = ("block", "layer", "channels")
POSITIONAL_CONV = "encoder.pos_conv_embed"

#: The block of what belongs to none.
REST_BLOCK = "rest"


def breakdown(
    structure: Structure, *, samples: int, selection: Selection | None = None, table: LatencyTable | None = None
) -> Breakdown:
    """The cost of a structure, whole or cut by a selection; with predicted times where a table is given."""
    terms = Terms(structure)
    kept_units = indicator(structure, selection.axes if selection else {})
    # A cut merges factorized maps that are no cheaper as two matrices; a model as it is keeps both matrices.
    form: FactorizedForm = "cheaper" if selection else "factorized"
    sizes = terms.sizes(kept_units, form)
    blocks: dict[str, dict[str, float]] = {}
    head = 0
    for cost in COSTS:
        factors = terms.unit_costs(cost, samples, lambda term, use: True)
        values = (sizes * factors).to(torch.float64).tolist()  # (terms,)
        for term, value in zip(terms.terms, values, strict=True):
            if structure.is_in_head(term.path):
                head += round(value)
                continue
            block = blocks.setdefault(_block_of_path(structure, term.path), dict.fromkeys(COSTS, 0))
            block[cost] += round(value)
    times = LatencyPredictor(terms, table) if table is not None else None
    if times is not None:
        for path, value in zip(times.paths, times(kept_units, form).tolist(), strict=True):
            block = blocks.setdefault(_block_of_path(structure, path) or REST_BLOCK, dict.fromkeys(COSTS, 0))
            block["latency"] = block.get("latency", 0.0) + value  # milliseconds
    scopes = {
        scope: {
            cost: round(sum(values[cost] for block, values in blocks.items() if structure.is_in_scope(block, scope)))
            for cost in COSTS
        }
        for scope in ("whole", "encoder", "frontend")
    }
    return Breakdown(
        parameters=scopes["whole"]["parameters"],
        head=head,
        macs=scopes["whole"]["macs"],
        latency=None if times is None else sum(block.get("latency", 0.0) for block in blocks.values()),
        samples=samples,
        frames=structure.lengths(samples)[-1],
        blocks={
            path: CostRecord(parameters=int(block["parameters"]), macs=int(block["macs"]), latency=block.get("latency"))
            for path, block in blocks.items()
        },
        scopes=scopes,
        convention=structure.convention,
    )


def _block_of_path(structure: Structure, path: str) -> str:
    """The block that a parameter or module belongs to: the innermost block, convolution or layer, or the first word."""
    prefix = path
    # "encoder.layers.3.attention.q_proj.weight" -> "encoder.layers.3.attention", which has an axis of kind `block`.
    while prefix and not any(name in structure.axes for name in (f"{prefix}/{kind}" for kind in _BLOCK_AXIS_KINDS)):
        prefix = prefix.rpartition(".")[0]
    return prefix or (POSITIONAL_CONV if structure.is_in_scope(path, POSITIONAL_CONV) else path.partition(".")[0])
