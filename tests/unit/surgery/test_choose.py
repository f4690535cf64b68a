"""Choosing: never above a limit, as near below it as the units allow, and as few units moved as can be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from choosing_toy import INFINITE, KINDS, flat, kept_of, limit, pick, plain, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st
from support import MODELS, tiny, tiny_structure

from secateur.errors import TargetError
from secateur.hf.model_view import ModelView
from secateur.masking import mask_values
from secateur.structure import Axis, DimBinding, Weight, normalize
from secateur.surgery import cut
from secateur.surgery.choose import DEFAULT_SLACK, binding_limit_name, choose, choose_uniform_share
from secateur.surgery.importance import magnitude_scores, order_scores
from secateur.surgery.limits import min_reachable_share

#: Kinds whose units are small beside half a percent of a tiny model.
SMALL = ("qk", "vo")


@settings(max_examples=30)
@given(
    model=st.sampled_from(MODELS),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([-6.0, 0.0, 6.0]),
    room=st.tuples(*[st.floats(0.02, 0.98)] * 3),
)
def test_no_limit_is_ever_exceeded_and_the_cut_model_has_the_counted_parameters(
    model: tuple[str, str], seed: int, shift: float, room: tuple[float, float, float]
) -> None:
    structure = tiny_structure(*model)
    scores = scores_of(structure, KINDS, seed, shift)
    gated = torch.isfinite(scores)
    limits = []
    for part, (cost, scope) in zip(
        room, (("parameters", "whole"), ("macs", "whole"), ("parameters", "encoder")), strict=True
    ):
        minimum = min_reachable_share(limit(structure, 1.0, cost, scope), gated)
        limits.append(limit(structure, minimum + part * (1 - minimum), cost, scope))
    choice = pick(structure, scores, *limits)
    assert normalize(structure, choice.selection).selection.axes == choice.selection.axes
    for each in limits:
        assert choice.counted_costs[each.name] == each.cost.count(choice.selection) <= each.max_cost
    full_result, _, encoder = (choice.counted_costs[each.name] for each in limits)
    small = cut(tiny(*model), choice.selection)
    by_name = [(name, value.numel()) for name, value in small.named_parameters()]
    assert full_result == sum(count for _, count in by_name)
    assert encoder == sum(count for name, count in by_name if name.startswith("encoder."))
    room_left = {each.name: each.max_cost - choice.counted_costs[each.name] for each in limits}
    shares = {
        name: left_item / each.cost.dense for (name, left_item), each in zip(room_left.items(), limits, strict=True)
    }
    assert shares[choice.binding_limit] == min(shares.values())


@settings(max_examples=20)
@given(model=st.sampled_from(MODELS), seed=st.integers(0, 10**6), share=st.floats(0.6, 0.98))
def test_the_binding_limit_is_filled_to_half_a_percent_when_units_are_small(
    model: tuple[str, str], seed: int, share: float
) -> None:
    structure = tiny_structure(*model)
    single_limit = limit(structure, share)
    minimum = min_reachable_share(single_limit, torch.isfinite(scores_of(structure, SMALL, seed)))
    single_limit = limit(structure, minimum + share * (1 - minimum))
    choice = pick(structure, scores_of(structure, SMALL, seed), single_limit)
    remaining = single_limit.max_cost - choice.counted_costs[single_limit.name]
    # Heads die whole with their last vo unit, and come back whole: one head is the largest step.
    assert 0 <= remaining <= max(DEFAULT_SLACK * single_limit.cost.dense, 4 * 24 * 6 + 60)


@settings(max_examples=40)
@given(
    scores=st.lists(st.floats(-4, 4, width=16).filter(bool), min_size=9, max_size=9, unique_by=abs),
    most=st.integers(0, 9),
)
def test_as_few_units_move_as_in_a_search_over_all_selections(scores: list[float], most: int) -> None:
    structure = flat(4, 5)
    choice = pick(structure, torch.tensor(scores), limit(structure, most / 9), slack=0.0)
    decision = [score > 0 for score in scores]

    def effort(kept_units: Sequence[bool]) -> tuple[int, float]:
        moved = [
            abs(score) for score, initial, clock in zip(scores, decision, kept_units, strict=True) if initial != clock
        ]
        return len(moved), sum(moved)

    best = min((units_kept for units_kept in product((False, True), repeat=9) if sum(units_kept) == most), key=effort)
    assert kept_of(structure, choice.selection) == list(best)
    assert choice.moved_units == effort(best)[0]
    assert (choice.gated_units, choice.hard_decision_costs) == (9, {"parameters-whole": 3 * sum(decision)})


@settings(max_examples=20)
@given(scores=st.lists(st.floats(-4, 4, width=16).filter(bool), min_size=9, max_size=9), spare=st.integers(0, 1))
def test_a_verdict_that_fits_is_kept_as_it_is(scores: list[float], spare: int) -> None:
    structure = flat(4, 5)
    decision = [score > 0 for score in scores]
    share = min(1.0, (sum(decision) + 0.1 * spare) / 9)
    choice = pick(structure, torch.tensor(scores), limit(structure, share), slack=0.1 / 9 + 1e-9)
    assert kept_of(structure, choice.selection) == decision
    assert choice.moved_units == 0


def test_the_least_decided_units_close_first_and_ties_go_by_place() -> None:
    structure = flat(6)
    scores = torch.tensor([5.0, 0.5, 0.5, -0.1, 2.0, -3.0])
    selection = {
        share: kept_of(structure, pick(structure, scores, limit(structure, share / 6)).selection)
        for share in range(1, 6)
    }
    assert selection[1] == [True, False, False, False, False, False]
    assert selection[2] == [True, False, False, False, True, False]
    assert selection[3] == [True, False, True, False, True, False]  # of two equal ones the first is closed
    assert selection[5] == [True, True, True, True, True, False]  # the least decided closed one is opened


def test_a_block_too_large_for_the_room_is_passed_over_for_smaller_units() -> None:
    axes = {
        "a/block": Axis(name="a/block", units=(0,), original=1),
        "a/units": Axis(name="a/units", units=(0, 1), original=2, parents=(("a/block", 0),)),
        "b/units": Axis(name="b/units", units=tuple(range(5)), original=5),
    }
    weights = (
        Weight(name="a.bias", shape=(10,), is_matrix=False, exists_with=("a/block", 0)),
        Weight(name="a.weight", shape=(1, 2), is_matrix=True, bindings=(DimBinding(dim=1, axes=("a/units",)),)),
        Weight(name="b.weight", shape=(1, 5), is_matrix=True, bindings=(DimBinding(dim=1, axes=("b/units",)),)),
    )
    structure = plain(axes, weights)
    scores = torch.tensor([-0.1, 3.0, -2.0, 1.0, 1.0, -1.0, -2.0, -3.0])
    choice = pick(structure, scores, limit(structure, 4 / 17), slack=0.0)
    assert choice.counted_costs == {"parameters-whole": 4}
    assert choice.selection.axes == {"a/block": (), "a/units": (), "b/units": (0, 1, 2, 3)}
    # What lies in the closed block keeps its verdict, and so has not moved.
    assert choice.moved_units == 2
    roomy = pick(structure, scores, limit(structure, 13 / 17), slack=0.0)
    assert roomy.selection.axes["a/block"] == (0,)
    assert roomy.counted_costs == {"parameters-whole": 13}
    assert roomy.moved_units == 1


def test_units_inside_a_closed_unit_count_as_moved_only_when_it_opens() -> None:
    structure = tiny_structure("wavlm", "large")
    scores = scores_of(structure, KINDS, 3)
    heads, head = (
        structure.axes["encoder.layers.1.attention/heads"],
        structure.axes["encoder.layers.1.attention/head2.qk"],
    )
    scores[structure.offsets[heads.name] + 2] = -20.0
    inner_settings = slice(structure.offsets[head.name], structure.offsets[head.name] + head.size)
    scores[inner_settings] = -0.001  # the least decided of all
    roomy = pick(structure, scores, limit(structure, 0.35))
    scores[inner_settings] = -30.0
    assert pick(structure, scores, limit(structure, 0.35)).moved_units == roomy.moved_units


def test_a_head_without_values_is_gone_with_its_queries_and_is_not_counted() -> None:
    structure = tiny_structure("hubert", "base")
    scores = scores_of(structure, SMALL, 0, shift=50.0)
    values = structure.axes["encoder.layers.0.attention/head1.vo"]
    start = structure.offsets[values.name]
    scores[start : start + values.size] = -50.0
    free = limit(structure, 1.0)
    one_head = 4 * 24 * 6 + 3 * 6  # four matrices, three biases
    choice = pick(structure, scores, limit(structure, (free.cost.dense - one_head) / free.cost.dense))
    assert choice.moved_units == 0
    assert choice.selection.axes["encoder.layers.0.attention/head1.qk"] == ()
    assert choice.selection.axes["encoder.layers.0.attention/heads"] == (0, 2, 3)
    assert choice.counted_costs["parameters-whole"] == free.cost.dense - one_head


def test_when_every_gate_is_closed_a_convolution_keeps_a_unit_and_says_so() -> None:
    structure = tiny_structure("hubert", "base")
    scores = scores_of(structure, KINDS, 0, shift=-50.0)
    minimum = min_reachable_share(limit(structure, 1.0), torch.isfinite(scores))
    choice = pick(structure, scores, limit(structure, minimum))
    assert [len(choice.selection.axes[f"feature_extractor.conv_layers.{i}/channels"]) for i in range(3)] == [1, 1, 1]
    assert len(choice.selection.axes["encoder.pos_conv_embed.conv/groups"]) == 1
    assert len(choice.notes) == 4
    assert all("was left without a unit" in note for note in choice.notes)


def test_an_axis_left_without_units_keeps_its_best_one_and_none_that_is_gone() -> None:
    structure = tiny_structure("hubert", "base")
    scores = scores_of(structure, ("channels",), 0, shift=-50.0)
    name = "feature_extractor.conv_layers.1/channels"
    start = structure.offsets[name]
    scores[start], scores[start + 3] = -INFINITE, -1.0
    minimum = min_reachable_share(limit(structure, 1.0), torch.isfinite(scores) | (scores == -INFINITE))
    choice = pick(structure, scores, limit(structure, minimum))
    assert choice.selection.axes[name] == (3,)
    assert f"{name} was left without a unit; its unit 3 stays" in choice.notes


def test_every_one_of_several_limits_holds_and_the_tightest_binds() -> None:
    structure = tiny_structure("wavlm", "base")
    scores = scores_of(structure, ("channels", "qk", "vo", "units"), 1, shift=4.0)
    limits = [
        limit(structure, 0.9),
        limit(structure, 0.5, "macs", "frontend"),
        limit(structure, 0.6, "parameters", "encoder.layers"),
    ]
    choice = pick(structure, scores, *limits)
    for each in limits:
        assert choice.counted_costs[each.name] <= each.max_cost
    remaining = {each.name: (each.max_cost - choice.counted_costs[each.name]) / each.cost.dense for each in limits}
    assert choice.binding_limit == min(remaining, key=lambda name: remaining[name])
    # A limit on the encoder closes no channel, one on the front end nothing else.
    single_result = pick(structure, scores, limits[1])
    assert all(
        len(units) == structure.axes[name].size
        for name, units in single_result.selection.axes.items()
        if "layers.0.a" in name
    )


def test_the_error_of_an_unreachable_target_names_the_smallest_share() -> None:
    structure = flat(4, 4)
    scores = torch.tensor([1.0] * 4 + [INFINITE] * 4)
    with pytest.raises(TargetError, match=r"parameters-whole asks to keep 0\.25 .* smallest reachable share is 0\.5"):
        pick(structure, scores, limit(structure, 0.25))
    at_the_edge = pick(structure, scores, limit(structure, 0.5))
    assert at_the_edge.counted_costs == {"parameters-whole": 12}


def test_scales_go_into_the_selection_only_where_a_kept_unit_has_one() -> None:
    structure = flat(3, 2)
    scales = torch.tensor([0.5, 0.25, 1.0, 1.0, 1.0])
    scores = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0])
    choice = choose(structure, scores, scales, [limit(structure, 0.8)])
    assert choice.selection.axes == {"0/units": (0, 2), "1/units": (0, 1)}
    assert choice.selection.scales == {"0/units": (0.5, 1.0)}
    assert mask_values(structure, choice.selection).tolist() == [0.5, 0.0, 1.0, 1.0, 1.0]


@settings(max_examples=15)
@given(model=st.sampled_from(MODELS), seed=st.integers(0, 10**6), share=st.floats(0.75, 0.97))
def test_one_shot_pruning_keeps_the_same_share_of_every_axis_and_its_best_units(
    model: tuple[str, str], seed: int, share: float
) -> None:
    structure = tiny_structure(*model)
    scores = torch.randn(structure.size, generator=torch.Generator().manual_seed(seed))
    kinds = ("qk", "vo", "units")
    single_limit = limit(structure, share)
    choice = choose_uniform_share(structure, scores, kinds, [single_limit])
    assert choice.counted_costs[single_limit.name] <= single_limit.max_cost
    shares = []
    for name, axis in structure.axes.items():
        selection = choice.selection.axes[name]
        if axis.kind not in kinds:
            assert len(selection) == axis.size
            continue
        axis_scores = scores[structure.offsets[name] : structure.offsets[name] + axis.size]
        best = axis_scores.argsort(descending=True)[: len(selection)].tolist()
        assert set(selection) == {axis.units[i] for i in best}
        shares.append((len(selection) / axis.size, 1 / axis.size))
    low, high = min(shares)[0], max(shares)[0]
    assert high - low <= 2 * max(step for _, step in shares)


def test_magnitude_is_the_norm_of_all_matrix_elements_of_a_unit() -> None:
    structure, model = tiny_structure("hubert", "large"), tiny("hubert", "large")
    scores = magnitude_scores(ModelView(model), structure)
    block = model.encoder.layers[1].feed_forward
    units = structure.offsets["encoder.layers.1.feed_forward/units"]
    rows = block.intermediate_dense.weight.detach()
    columns = block.output_dense.weight.detach()
    expected = (rows.square().sum(1) + columns.square().sum(0)).sqrt()
    torch.testing.assert_close(scores[units : units + 10], expected)
    full_batch = structure.offsets["encoder.layers.1.feed_forward/block"]
    torch.testing.assert_close(scores[full_batch], expected.square().sum().sqrt())


@pytest.mark.parametrize("size", ["base", "large"])
def test_magnitude_of_a_positional_group_is_that_of_the_weight_and_not_of_its_direction(size: str) -> None:
    structure, model = tiny_structure("hubert", size), tiny("hubert", size)
    start = structure.offsets["encoder.pos_conv_embed.conv/groups"]
    expected = model.encoder.pos_conv_embed.conv.weight.detach().view(4, -1).square().sum(1).sqrt()
    torch.testing.assert_close(magnitude_scores(ModelView(model), structure)[start : start + 4], expected)


def test_first_prefers_units_in_the_order_in_which_they_stand() -> None:
    assert order_scores(flat(3, 2)).tolist() == [0, -1, -2, 0, -1]


@settings(max_examples=20)
@given(model=st.sampled_from(MODELS), seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
def test_units_that_are_gone_are_never_chosen(model: tuple[str, str], seed: int, share: float) -> None:
    structure = tiny_structure(*model)
    scores = scores_of(structure, SMALL, seed)
    removed = torch.isfinite(scores) & (torch.rand(structure.size, generator=torch.Generator().manual_seed(seed)) < 0.3)
    scores = torch.where(removed, -INFINITE, scores)
    single_limit = limit(structure, 1.0)
    minimum, maximum = (
        min_reachable_share(single_limit, torch.isfinite(scores) | removed),
        single_limit.cost.exact(~removed) / single_limit.cost.dense,
    )
    single_limit = limit(structure, minimum + share * (maximum - minimum))
    choice = pick(structure, scores, single_limit)
    selection = torch.tensor(kept_of(structure, choice.selection))
    assert not (selection & removed).any()
    assert choice.counted_costs[single_limit.name] == single_limit.cost.count(choice.selection) <= single_limit.max_cost
    assert choice.gated_units == int((scores < INFINITE).sum())


def test_a_target_that_needs_units_that_are_gone_is_refused() -> None:
    structure = flat(10)
    scores = torch.tensor([-INFINITE] * 4 + [-1.0, 1.0] * 3)
    assert pick(structure, scores, limit(structure, 0.6)).counted_costs == {"parameters-whole": 18}
    with pytest.raises(TargetError, match=r"allows 0\.8 of .* units that are left come to 0\.6"):
        pick(structure, scores, limit(structure, 0.8))


def test_the_binding_limit_has_the_least_room_as_a_share_of_its_dense_cost() -> None:
    structure = tiny_structure("wavlm", "base")
    parameters, macs = limit(structure, 0.5), limit(structure, 0.5, "macs")
    # Room of 10 % of the parameters and of 1 % of the MACs, although 1 % of the MACs is the larger number.
    counted = {
        parameters.name: parameters.max_cost - 0.1 * parameters.cost.dense,
        macs.name: macs.max_cost - 0.01 * macs.cost.dense,
    }
    assert 0.01 * macs.cost.dense > 0.1 * parameters.cost.dense
    assert binding_limit_name([parameters, macs], counted) == macs.name
