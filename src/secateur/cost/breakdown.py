"""Parameters, MACs and predicted time of a model by block, for `profile` and the report."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from secateur.cost.expected import COSTS, FactorizedForm, Terms, indicator
from secateur.cost.latency_table import LatencyTable
from secateur.cost.predicted_time import LatencyPredictor
from secateur.records.block_part import REST
from secateur.records.cost_record import Breakdown, CostRecord
from secateur.structure import Selection, Structure

#: Name of the block of everything outside of modules.
REST_BLOCK = REST


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
            block = blocks.setdefault(_block_name(structure, term.path), dict.fromkeys(COSTS, 0))
            block[cost] += round(value)
    times = LatencyPredictor(terms, table) if table is not None else None
    if times is not None:
        for path, value in zip(times.paths, times(kept_units, form).tolist(), strict=True):
            block = blocks.setdefault(_block_name(structure, path) or REST_BLOCK, dict.fromkeys(COSTS, 0))
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
        blocks={name: _cost_record(structure, name, costs) for name, costs in blocks.items()},
        scopes=scopes,
        convention=structure.convention,
    )


def _block_name(structure: Structure, path: str) -> str:
    """Return the path of the innermost block around a parameter or module; outside of blocks the first word."""
    block = structure.block_of(path)
    return block.path if block else path.partition(".")[0]


def _cost_record(structure: Structure, name: str, costs: Mapping[str, float]) -> CostRecord:
    block = structure.block_of(name)
    return CostRecord(
        parameters=int(costs["parameters"]),
        macs=int(costs["macs"]),
        latency=costs.get("latency"),
        part=block.part if block else REST,
        layer=block.layer if block else None,
    )
