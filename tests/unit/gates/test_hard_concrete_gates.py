"""All gates of a model: whose draw depends on what, and what is told of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support import Plan, make_selection, tiny, tiny_structure

from secateur.errors import ConfigError
from secateur.gates import HardConcrete, HardConcreteGates
from secateur.hf.declare import declare
from secateur.structure import Structure
from secateur.surgery import cut

KINDS = {
    kind: HardConcrete(drop_rate=0.5, spread=1.0)
    for kind in ("channels", "groups", "heads", "qk", "vo", "units", "block")
}
PLAN = Plan(
    seed=4,
    channels=("some", "some", "one"),
    attention=("heads", "ragged", "whole"),
    feed_forward=("units", "units", "removed"),
    trimmed=0,
    scales=False,
)


def by_unit(gates: HardConcreteGates, values: torch.Tensor) -> dict[tuple[str, int], float]:
    structure = gates.structure
    return {
        (axis.name, unit): values[structure.offsets[axis.name] + position].item()
        for axis in gates.axes
        for position, unit in enumerate(axis.units)
    }


@pytest.fixture(scope="module")
def structure() -> Structure:
    return tiny_structure("wavlm", "base")


def test_a_unit_draws_the_same_in_a_model_from_which_others_were_cut(structure: Structure) -> None:
    small = cut(tiny("wavlm", "base"), make_selection(structure, PLAN))
    full_result, remaining_lines = (
        HardConcreteGates(structure, KINDS, seed=7),
        HardConcreteGates(declare(small.config), KINDS, seed=7),
    )
    assert len(remaining_lines.log_alpha) < len(full_result.log_alpha)
    for values in ("log_alpha", "draw"):
        pair = []
        for gates in (full_result, remaining_lines):
            if values == "draw":
                pair.append(by_unit(gates, gates.draw(11).detach()))
            else:
                start = torch.zeros(gates.structure.size).index_copy(0, gates.positions, gates.log_alpha.detach())
                pair.append(by_unit(gates, start))
        all_of, subset = pair
        assert subset
        # A vectorised sigmoid may round the last digit by the place in its vector.
        assert all(all_of[unit] == pytest.approx(value, abs=1e-6) for unit, value in subset.items())


def test_a_draw_does_not_depend_on_which_other_kinds_are_gated(structure: Structure) -> None:
    single_result = HardConcreteGates(structure, {"units": KINDS["units"]}, seed=7)
    mixed = HardConcreteGates(structure, KINDS, seed=7)
    expected = by_unit(mixed, mixed.draw(3).detach())
    actual = by_unit(single_result, single_result.draw(3).detach())
    assert actual
    assert all(expected[unit] == pytest.approx(value, abs=1e-6) for unit, value in actual.items())


def test_a_draw_depends_on_seed_and_step_and_on_nothing_that_ran_before(structure: Structure) -> None:
    gates = HardConcreteGates(structure, KINDS, seed=7)
    first = gates.draw(5)
    torch.manual_seed(123)
    gates.draw(6)
    assert torch.equal(gates.draw(5), first)
    assert not torch.equal(gates.draw(6), first)
    other_value = HardConcreteGates(structure, KINDS, seed=8)
    with torch.no_grad():
        other_value.log_alpha.copy_(gates.log_alpha)
    assert not torch.equal(other_value.draw(5), first)


def test_draws_are_uniform_and_independent_across_units_and_steps(structure: Structure) -> None:
    from secateur.gates.keyed_random import uniform

    gates = HardConcreteGates(structure, KINDS, seed=0)
    drawn = np.stack([uniform(gates.keys, 0, step) for step in range(400)])  # (steps, gates)
    assert len(np.unique(gates.keys)) == len(gates.keys)
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(drawn[0], "uniform").pvalue > 1e-3
    between_units = np.corrcoef(drawn.T)[np.triu_indices(drawn.shape[1], 1)]
    between_steps = np.corrcoef(drawn)[np.triu_indices(drawn.shape[0], 1)]
    for candidate, count in ((between_units, drawn.shape[0]), (between_steps, drawn.shape[1])):
        assert abs(candidate.mean()) < 5 / math.sqrt(count * len(candidate)) + 1e-3
        assert candidate.std() == pytest.approx(1 / math.sqrt(count), rel=0.1)
        assert abs(candidate).max() < 7 / math.sqrt(count)


def test_start_values_scatter_around_the_drop_rates_log_odds() -> None:
    structure = tiny_structure("hubert", "large")
    gates = HardConcreteGates(structure, {"qk": HardConcrete(drop_rate=0.1, spread=0.5)}, seed=1)
    scatter = (gates.log_alpha.detach().numpy() - math.log(9)) / 0.5
    assert stats.kstest(scatter, "norm").pvalue > 1e-3
    exact = HardConcreteGates(structure, {"qk": HardConcrete(drop_rate=0.1, spread=0.0)}, seed=1)
    assert exact.log_alpha.detach().numpy() == pytest.approx(math.log(9))


def test_what_is_not_gated_is_one_and_has_an_infinite_score(structure: Structure) -> None:
    gates = HardConcreteGates(structure, {"units": HardConcrete(drop_rate=0.5, spread=2.0)}, seed=1)
    free = torch.ones(structure.size, dtype=torch.bool).index_fill(0, gates.positions, False)
    for values in (gates.draw(0), gates.open_probability(), gates.scales(), gates.deterministic_mask()):
        assert (values[free] == 1).all()
    assert torch.isinf(gates.scores()[free]).all()
    assert torch.isfinite(gates.scores()[~free]).all()
    assert gates.gated_axes == {f"encoder.layers.{i}.feed_forward/units" for i in range(3)}
    assert gates.open_probability().dtype == torch.float64


@pytest.mark.parametrize("parametrisation", ["standard", "wang2023"])
def test_verdict_score_and_open_probability_agree(structure: Structure, parametrisation: str) -> None:
    gate = HardConcrete(drop_rate=0.5, spread=3.0, parametrisation=parametrisation)  # type: ignore[arg-type]
    gates = HardConcreteGates(structure, {"qk": gate, "units": gate}, seed=2)
    gate_positions = gates.positions
    opened, scores, masks = (
        gates.open_probability().detach()[gate_positions],
        gates.scores()[gate_positions],
        gates.deterministic_mask()[gate_positions],
    )
    torch.testing.assert_close(opened, torch.sigmoid(scores.double()))
    assert ((masks > 0) == (opened > 0.5)).all()
    assert ((masks > 0) == (scores > 0)).all()
    interval = ((opened > 0.05) & (opened < 0.95)).double().mean().item()
    assert gates.undecided_share() == pytest.approx(interval)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 1.2 / (1 + 11 ** (2 / 3)) - 0.1),  # sigmoid(beta log(-gamma / zeta)), stretched
        ({"temperature": 1.0}, 0.01),  # zero without the floor
        ({"parametrisation": "wang2023"}, 0.01),
    ],
)
def test_a_unit_kept_against_its_verdict_has_the_scale_of_one_at_the_boundary(
    structure: Structure, fields: dict[str, Any], expected: float
) -> None:
    gates = HardConcreteGates(structure, {"units": HardConcrete(**fields)}, seed=2)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-12, 12, len(gates.log_alpha)))
    scales, scores = gates.scales()[gates.positions], gates.scores()[gates.positions]
    assert scales[-1] == 1
    torch.testing.assert_close(scales[scores < 0], torch.full_like(scales[scores < 0], expected))


def test_open_shares_are_means_by_kind(structure: Structure) -> None:
    gates = HardConcreteGates(structure, KINDS, seed=2)
    probability = gates.open_probability().detach()
    for kind, share in gates.open_shares().items():
        units = [structure.offsets[a.name] + i for a in structure.axes_of_kinds((kind,)) for i in range(a.size)]
        assert share == pytest.approx(probability[units].mean().item())


def test_an_unknown_kind_is_told_with_the_nearest(structure: Structure) -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown kind of axis 'unit'; allowed are channels.* Did you mean 'units'\?"
    ):
        HardConcreteGates(structure, {"unit": HardConcrete()}, seed=0)


def test_layers_are_not_gated(structure: Structure) -> None:
    with pytest.raises(ConfigError, match="Whole layers are chosen, not gated"):
        HardConcreteGates(structure, {"layer": HardConcrete()}, seed=0)


def test_nothing_to_gate_is_told(structure: Structure) -> None:
    with pytest.raises(ConfigError, match=r"No axis of this model is of the gated kinds \(none\)"):
        HardConcreteGates(structure, {}, seed=0)
