"""Rounding while choosing: sizes are multiples, never above a limit, and as few units moved as can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from choosing_toy import KINDS, flat, limit, pick, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st
from support import MODELS, tiny, tiny_structure
from torch import Tensor

import widths
from secateur.cost.expected import indicator
from secateur.errors import TargetError
from secateur.records.files import read_json
from secateur.structure import Structure
from secateur.surgery import cut
from secateur.surgery.choose import DEFAULT_SLACK, Choice, choose_uniform_share
from secateur.surgery.limits import min_reachable_share
from secateur.surgery.unit_groups import AUTO_MULTIPLES, ROUNDABLE_KINDS, UnitGroups
from wav2vec2_axes import channels, feed_forward_units

RESULT = Path(widths.__file__).parent / "results" / "widths.json"
#: Of the tiny models, whose axes have 4 to 10 units: some divide a size, some do not, some are larger.
MULTIPLES = st.fixed_dictionaries({}, optional={kind: st.sampled_from([1, 2, 3, 4, 8]) for kind in ROUNDABLE_KINDS})


def wrong_sizes(structure: Structure, choice: Choice, round_to: dict[str, int]) -> list[tuple[str, int]]:
    """Axes of which a number of units stays that is no multiple and not the whole axis."""
    sizes = {name: len(units) for name, units in choice.selection.axes.items()}
    return [
        (name, size)
        for name, size in sizes.items()
        if size % round_to.get(structure.axes[name].kind, 1) and size != structure.axes[name].size
    ]


def larger_by_one_step(
    structure: Structure, scores: Tensor, choice: Choice, round_to: dict[str, int]
) -> list[dict[str, tuple[int, ...]]]:
    """The selections with one more multiple on one axis whose block is there."""
    results = []
    for name, units in choice.selection.axes.items():
        axis, start = structure.axes[name], structure.offsets[name]
        axis_scores = scores[start : start + axis.size]
        inner_settings = all(unit in choice.selection.axes[parent] for parent, unit in axis.parents)
        if (
            axis.kind not in ROUNDABLE_KINDS
            or not inner_settings
            or not torch.isfinite(axis_scores).all()
            or len(units) == axis.size
        ):
            continue
        extra_fields = torch.argsort(axis_scores, descending=True, stable=True)[
            : len(units) + round_to.get(axis.kind, 1)
        ]
        results.append({**choice.selection.axes, name: tuple(axis.units[i] for i in extra_fields.tolist())})
    return results


@settings(max_examples=30)
@given(
    model=st.sampled_from(MODELS),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([-6.0, 0.0, 6.0]),
    equal=st.booleans(),
    room=st.tuples(*[st.floats(0.02, 0.98)] * 2),
    round_to=MULTIPLES,
)
def test_sizes_are_multiples_no_limit_is_exceeded_and_no_further_multiple_fits(
    model: tuple[str, str], seed: int, shift: float, equal: bool, room: tuple[float, float], round_to: dict[str, int]
) -> None:
    structure = tiny_structure(*model)
    scores = scores_of(structure, KINDS, seed, shift)
    if equal:  # ties everywhere
        scores = torch.where(torch.isfinite(scores), scores.sign() * 2, scores)
    unit_groups = UnitGroups.from_scores(structure, scores, round_to)
    limits = []
    for part, (cost, scope) in zip(room, (("parameters", "whole"), ("macs", "encoder")), strict=True):
        minimum = min_reachable_share(limit(structure, 1.0, cost, scope), unit_groups.to_units(unit_groups.is_movable))
        limits.append(limit(structure, minimum + part * (1 - minimum), cost, scope))
    choice = pick(structure, scores, *limits, round_to=round_to)
    assert wrong_sizes(structure, choice, round_to) == []
    for each in limits:
        assert choice.counted_costs[each.name] == each.cost.count(choice.selection) <= each.max_cost
    remaining = {each.name: each.max_cost - choice.counted_costs[each.name] for each in limits}
    if all(remaining[each.name] > DEFAULT_SLACK * each.cost.dense for each in limits):
        for axes in larger_by_one_step(structure, scores, choice, round_to):
            mask = indicator(structure, axes)
            assert any(float(each.cost.expected(mask)) > each.max_cost for each in limits), axes


@settings(max_examples=40)
@given(
    scores=st.lists(st.floats(-4, 4, width=16).filter(bool), min_size=21, max_size=21),
    multiple=st.sampled_from([2, 4, 5]),
)
def test_a_verdict_that_fits_is_rounded_by_the_fewest_moves(scores: list[float], multiple: int) -> None:
    structure, sizes = flat(12, 9), (12, 9)
    choice = pick(structure, torch.tensor(scores), limit(structure, 1.0), slack=1.0, round_to={"units": multiple})
    moved = 0
    for position, (name, size) in enumerate(zip(choice.selection.axes, sizes, strict=True)):
        axis_scores = scores[12 * position : 12 * position + size]
        decision = sum(score > 0 for score in axis_scores)
        selection = choice.selection.axes[name]
        allowed = {*range(0, size + 1, multiple), size}
        assert abs(len(selection) - decision) == min(abs(alternative - decision) for alternative in allowed)
        assert sorted(axis_scores[unit] for unit in selection) == sorted(axis_scores)[size - len(selection) :]
        moved += abs(len(selection) - decision)
    assert choice.moved_units == moved


def test_without_rounding_nothing_changes() -> None:
    structure = tiny_structure("wavlm", "large")
    scores = scores_of(structure, KINDS, 5)
    plain = pick(structure, scores, limit(structure, 0.5))
    assert plain.rounding is None
    ones = pick(structure, scores, limit(structure, 0.5), round_to=dict.fromkeys(ROUNDABLE_KINDS, 1))
    assert replace(ones, rounding=None) == plain
    assert ones.rounding is not None
    no_pruning = dict.fromkeys(ROUNDABLE_KINDS, 0)
    assert (ones.rounding.opened, ones.rounding.closed) == (no_pruning, no_pruning)
    assert set(ones.rounding.given_up.values()) == {0.0}


def test_what_rounding_cost_is_the_difference_to_the_choice_without_it() -> None:
    structure = flat(8, 6)
    scores = torch.tensor([8.0, 7, 6, 5, 4, -1, -2, -3, 3, 2, 1, -4, -5, -6])
    single_limit = limit(structure, 10.5 / 14)
    baseline_record = pick(structure, scores, single_limit, slack=0.0)
    assert [len(units) for units in baseline_record.selection.axes.values()] == [7, 3]
    choice = pick(structure, scores, single_limit, slack=0.0, round_to={"units": 4})
    assert [len(units) for units in choice.selection.axes.values()] == [4, 6]
    assert choice.rounding is not None
    assert choice.rounding.multiples == {"units": 4}
    assert (choice.rounding.opened, choice.rounding.closed) == ({"units": 3}, {"units": 3})
    assert choice.rounding.given_up == {single_limit.name: 0.0}
    tighter = limit(structure, 9 / 14)
    assert pick(structure, scores, tighter, slack=0.0, round_to={"units": 4}).counted_costs == {tighter.name: 3 * 8}


def test_a_convolution_keeps_a_multiple_even_when_all_its_gates_are_closed() -> None:
    structure = tiny_structure("hubert", "base")
    scores = scores_of(structure, ("channels",), 0, shift=-50.0)
    free = limit(structure, 1.0)
    choice = pick(structure, scores, limit(structure, 0.99), round_to={"channels": 4}, slack=1.0)
    assert [len(choice.selection.axes[channels(i)]) for i in range(3)] == [4, 4, 4]
    assert choice.notes == ()
    minimum = min_reachable_share(free, torch.isfinite(scores))
    with pytest.raises(TargetError, match="round to smaller multiples or gate more kinds"):
        pick(structure, scores, limit(structure, minimum + 0.001), round_to={"channels": 4})


def test_an_axis_smaller_than_the_multiple_stays_whole_or_goes() -> None:
    structure = flat(3, 9)
    scores = torch.tensor([1.0, 2.0, -3.0, 4, 4, 4, 4, 4, 4, 4, 4, 0.5])
    sizes = {}
    for share in (12, 11, 10, 8):
        choice = pick(structure, scores, limit(structure, share / 12), round_to={"units": 8})
        sizes[share] = [len(units) for units in choice.selection.axes.values()]
    assert sizes == {12: [3, 9], 11: [3, 8], 10: [0, 9], 8: [0, 8]}


@settings(max_examples=15)
@given(model=st.sampled_from(MODELS), seed=st.integers(0, 10**6), share=st.floats(0.8, 0.97))
def test_one_shot_pruning_is_rounded_too(model: tuple[str, str], seed: int, share: float) -> None:
    structure = tiny_structure(*model)
    scores = torch.randn(structure.size, generator=torch.Generator().manual_seed(seed))
    single_limit, round_to = limit(structure, share), {"vo": 3, "units": 4}
    choice = choose_uniform_share(structure, scores, ("qk", "vo", "units"), [single_limit], round_to=round_to)
    assert choice.counted_costs[single_limit.name] <= single_limit.max_cost
    assert wrong_sizes(structure, choice, round_to) == []


def test_the_cut_model_has_the_rounded_widths() -> None:
    structure = tiny_structure("wavlm", "large")
    scores = scores_of(structure, ("channels", "units"), 2)
    choice = pick(structure, scores, limit(structure, 0.9), round_to={"channels": 3, "units": 5})
    small = cut(tiny("wavlm", "large"), choice.selection)
    for i, layer in enumerate(small.feature_extractor.conv_layers):
        size = structure.axes[channels(i)].size
        assert layer.conv.out_channels in {3, 6, size}
    for i, layer in enumerate(small.encoder.layers):
        assert len(choice.selection.axes[feed_forward_units(i)]) in (0, 5, 10)
        if choice.selection.axes[feed_forward_units(i)]:
            assert layer.feed_forward.intermediate_dense.out_features in (5, 10)
    assert sum(value.numel() for value in small.parameters()) == choice.counted_costs["parameters-whole"]


def test_auto_on_a_processor_is_what_was_measured() -> None:
    assert widths.rule(read_json(RESULT)) == AUTO_MULTIPLES["cpu"]


@pytest.mark.parametrize(("gone", "sizes"), [(0, {0, 4, 8, 10}), (1, {0, 4, 8}), (3, {0, 4}), (7, {0})])
def test_kept_sizes_are_multiples_of_the_units_that_are_not_gone(gone: int, sizes: set[int]) -> None:
    structure = flat(10)
    scores = torch.cat([torch.full((gone,), -float("inf")), torch.arange(10.0 - gone)])
    unit_groups = UnitGroups.from_scores(structure, scores, {"units": 4})
    opening_order = unit_groups.ranking(unit_groups.is_movable, descending=True)
    opened = torch.zeros(len(unit_groups.scores), dtype=torch.bool)
    results = {0}
    for group in opening_order:
        opened[group] = True
        results.add(int(unit_groups.to_units(opened).sum()))
        assert not unit_groups.to_units(opened)[:gone].any()
    assert results == sizes
    assert not unit_groups.to_units(unit_groups.hard_decision)[:gone].any()
