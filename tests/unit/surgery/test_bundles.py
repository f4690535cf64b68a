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
from secateur.records import read_json
from secateur.structure import Structure
from secateur.structure.wav2vec2 import channels, feed_forward_units
from secateur.surgery import cut
from secateur.surgery.bundles import AUTO, WIDTHS, Bundles
from secateur.surgery.choose import SLACK, Choice, best_share, smallest

RESULT = Path(widths.__file__).parent / "results" / "widths.json"
#: Of the tiny models, whose axes have 4 to 10 units: some divide a size, some do not, some are larger.
MULTIPLES = st.fixed_dictionaries({}, optional={kind: st.sampled_from([1, 2, 3, 4, 8]) for kind in WIDTHS})


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
    found = []
    for name, units in choice.selection.axes.items():
        axis, start = structure.axes[name], structure.offsets[name]
        own = scores[start : start + axis.size]
        inside = all(unit in choice.selection.axes[parent] for parent, unit in axis.parents)
        if axis.kind not in WIDTHS or not inside or not torch.isfinite(own).all() or len(units) == axis.size:
            continue
        more = torch.argsort(own, descending=True, stable=True)[: len(units) + round_to.get(axis.kind, 1)]
        found.append({**choice.selection.axes, name: tuple(axis.units[i] for i in more.tolist())})
    return found


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
    bundles = Bundles.of(structure, scores, round_to)
    limits = []
    for part, (cost, scope) in zip(room, (("parameters", "whole"), ("macs", "encoder")), strict=True):
        least = smallest(limit(structure, 1.0, cost, scope), bundles.units(bundles.movable))
        limits.append(limit(structure, least + part * (1 - least), cost, scope))
    choice = pick(structure, scores, *limits, round_to=round_to)
    assert wrong_sizes(structure, choice, round_to) == []
    for each in limits:
        assert choice.counted[each.name] == each.cost.count(choice.selection) <= each.most
    left = {each.name: each.most - choice.counted[each.name] for each in limits}
    if all(left[each.name] > SLACK * each.cost.dense for each in limits):
        for axes in larger_by_one_step(structure, scores, choice, round_to):
            mask = indicator(structure, axes)
            assert any(float(each.cost.expected(mask)) > each.most for each in limits), axes


@settings(max_examples=40)
@given(
    scores=st.lists(st.floats(-4, 4, width=16).filter(bool), min_size=21, max_size=21),
    multiple=st.sampled_from([2, 4, 5]),
)
def test_a_verdict_that_fits_is_rounded_by_the_fewest_moves(scores: list[float], multiple: int) -> None:
    structure, sizes = flat(12, 9), (12, 9)
    choice = pick(structure, torch.tensor(scores), limit(structure, 1.0), slack=1.0, round_to={"units": multiple})
    moved = 0
    for at, (name, size) in enumerate(zip(choice.selection.axes, sizes, strict=True)):
        own = scores[12 * at : 12 * at + size]
        verdict = sum(score > 0 for score in own)
        kept = choice.selection.axes[name]
        allowed = {*range(0, size + 1, multiple), size}
        assert abs(len(kept) - verdict) == min(abs(other - verdict) for other in allowed)
        assert sorted(own[unit] for unit in kept) == sorted(own)[size - len(kept) :]
        moved += abs(len(kept) - verdict)
    assert choice.moved == moved


def test_without_rounding_nothing_changes() -> None:
    structure = tiny_structure("wavlm", "large")
    scores = scores_of(structure, KINDS, 5)
    plain = pick(structure, scores, limit(structure, 0.5))
    assert plain.rounding is None
    ones = pick(structure, scores, limit(structure, 0.5), round_to=dict.fromkeys(WIDTHS, 1))
    assert replace(ones, rounding=None) == plain
    assert ones.rounding is not None
    nothing = dict.fromkeys(WIDTHS, 0)
    assert (ones.rounding.opened, ones.rounding.closed) == (nothing, nothing)
    assert set(ones.rounding.given_up.values()) == {0.0}


def test_what_rounding_cost_is_the_difference_to_the_choice_without_it() -> None:
    structure = flat(8, 6)
    scores = torch.tensor([8.0, 7, 6, 5, 4, -1, -2, -3, 3, 2, 1, -4, -5, -6])
    only = limit(structure, 10.5 / 14)
    without = pick(structure, scores, only, slack=0.0)
    assert [len(units) for units in without.selection.axes.values()] == [7, 3]
    choice = pick(structure, scores, only, slack=0.0, round_to={"units": 4})
    assert [len(units) for units in choice.selection.axes.values()] == [4, 6]
    assert choice.rounding is not None
    assert choice.rounding.multiples == {"units": 4}
    assert (choice.rounding.opened, choice.rounding.closed) == ({"units": 3}, {"units": 3})
    assert choice.rounding.given_up == {only.name: 0.0}
    tighter = limit(structure, 9 / 14)
    assert pick(structure, scores, tighter, slack=0.0, round_to={"units": 4}).counted == {tighter.name: 3 * 8}


def test_a_convolution_keeps_a_multiple_even_when_all_its_gates_are_closed() -> None:
    structure = tiny_structure("hubert", "base")
    scores = scores_of(structure, ("channels",), 0, shift=-50.0)
    free = limit(structure, 1.0)
    choice = pick(structure, scores, limit(structure, 0.99), round_to={"channels": 4}, slack=1.0)
    assert [len(choice.selection.axes[channels(i)]) for i in range(3)] == [4, 4, 4]
    assert choice.notes == ()
    least = smallest(free, torch.isfinite(scores))
    with pytest.raises(TargetError, match="round to smaller multiples or gate more kinds"):
        pick(structure, scores, limit(structure, least + 0.001), round_to={"channels": 4})


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
    only, round_to = limit(structure, share), {"vo": 3, "units": 4}
    choice = best_share(structure, scores, ("qk", "vo", "units"), [only], round_to=round_to)
    assert choice.counted[only.name] <= only.most
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
    assert sum(value.numel() for value in small.parameters()) == choice.counted["parameters-whole"]


def test_auto_on_a_processor_is_what_was_measured() -> None:
    assert widths.rule(read_json(RESULT)) == AUTO["cpu"]


@pytest.mark.parametrize(("gone", "sizes"), [(0, {0, 4, 8, 10}), (1, {0, 4, 8}), (3, {0, 4}), (7, {0})])
def test_kept_sizes_are_multiples_of_the_units_that_are_not_gone(gone: int, sizes: set[int]) -> None:
    structure = flat(10)
    scores = torch.cat([torch.full((gone,), -float("inf")), torch.arange(10.0 - gone)])
    bundles = Bundles.of(structure, scores, {"units": 4})
    ladder = bundles.order(bundles.movable, descending=True)
    opened = torch.zeros(len(bundles.scores), dtype=torch.bool)
    found = {0}
    for bundle in ladder:
        opened[bundle] = True
        found.add(int(bundles.units(opened).sum()))
        assert not bundles.units(opened)[:gone].any()
    assert found == sizes
    assert not bundles.units(bundles.verdict)[:gone].any()
