"""Units opened and closed for a limit, equal to the example by hand in the module's docstring."""

from __future__ import annotations

import torch

from secateur.cost import Cost
from secateur.structure import Axis, Structure
from secateur.surgery.limits import CostLimit, close_to_limit, open_to_limits
from secateur.surgery.unit_groups import UnitGroups

COSTS = torch.tensor([40, 30, 20, 10], dtype=torch.float64)


def make_structure(*axes: Axis) -> Structure:
    return Structure(
        model_type="example",
        axes={axis.name: axis for axis in axes},
        weights=(),
        mac_terms=(),
        norms=(),
        stages=(),
        convention="",
        sees_padding=False,
    )


def test_groups_close_until_the_limit_holds_and_open_while_it_has_room() -> None:
    structure = make_structure(*(Axis(name=name, units=(0,), original=1) for name in "abcd"))
    cost = Cost(structure=structure, value=lambda open_probability, form: open_probability @ COSTS, label="example")
    limit = CostLimit(name="example", cost=cost, share=0.6)
    groups = UnitGroups.from_scores(structure, torch.tensor([3, 0.5, 0.2, -1]), {})
    assert groups.hard_decision.tolist() == [True, True, True, False]
    closed = close_to_limit(groups.hard_decision, groups, limit)
    assert closed.tolist() == [True, False, False, False]
    assert open_to_limits(closed, groups, [limit], 0.005).tolist() == [True, False, True, False]


def test_the_groups_of_a_rounded_axis_are_those_of_the_example() -> None:
    axis = Axis(name="example/units", units=tuple(range(7)), original=7, min_units=1)
    structure = make_structure(axis)
    scores = torch.tensor([2.0, -1, 4, 0, 1, 3, -2])
    groups = UnitGroups.from_scores(structure, scores, {"units": 3})
    assert groups.group_of_unit.tolist() == [0, 1, 0, 1, 1, 0, 2]
    assert groups.scores.tolist() == [3, 0, -2]
    assert groups.is_movable.tolist() == [False, True, True]
    assert groups.to_units(groups.hard_decision).tolist() == [True, False, True, False, False, True, False]
    scores[[4, 6]] = -torch.inf
    groups = UnitGroups.from_scores(structure, scores, {"units": 3})
    assert groups.group_of_unit.tolist() == [0, 1, 0, 1, 1, 0, 1]
    assert groups.is_removed.tolist() == [False, True]
