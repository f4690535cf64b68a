"""Encoder and head of a transducer, chosen apart where no limit counts both."""

from __future__ import annotations

import math

import torch
from choosing_toy import limit, pick, scores_of
from transducer_toy import transducer

from secateur.hf.declare import declare
from secateur.structure.axis import HEAD_KINDS
from secateur.surgery.choose import DEFAULT_SLACK, choose_uniform_share

STRUCTURE = declare(transducer(num_decoder_layers=2).config)
ENCODER, TRANSDUCER = limit(STRUCTURE, 0.7), limit(STRUCTURE, 0.3, scope="transducer")
KINDS = ("units", "heads", *HEAD_KINDS)


def test_either_part_is_what_it_would_be_alone() -> None:
    scores = scores_of(STRUCTURE, KINDS, 0)
    pair = pick(STRUCTURE, scores, ENCODER, TRANSDUCER)
    single_result = [
        pick(STRUCTURE, scores_of_some, axis_scores)
        for scores_of_some, axis_scores in (
            (without_head(scores, True), ENCODER),
            (without_head(scores, False), TRANSDUCER),
        )
    ]
    for name, selection in pair.selection.axes.items():
        assert selection == single_result[STRUCTURE.is_in_head(STRUCTURE.axes[name].path)].selection.axes[name]
    assert pair.moved_units == sum(choice.moved_units for choice in single_result)
    assert pair.gated_units == sum(choice.gated_units for choice in single_result) == int((scores < math.inf).sum())
    assert pair.counted_costs == single_result[0].counted_costs | single_result[1].counted_costs
    for item in (ENCODER, TRANSDUCER):
        assert 0 <= item.max_cost - item.cost.count(pair.selection) <= DEFAULT_SLACK * item.cost.dense


def without_head(scores: torch.Tensor, leave_out: bool) -> torch.Tensor:
    """The scores of the encoder's units, or of the head's, the others without gates."""
    axes = STRUCTURE.axes.values()
    head = torch.cat([torch.full((axis.size,), STRUCTURE.is_in_head(axis.path)) for axis in axes])
    return torch.where(head == leave_out, math.inf, scores)


def test_one_limit_on_both_is_met_by_both() -> None:
    scores = scores_of(STRUCTURE, KINDS, 1)
    gated = frozenset(axis.name for axis in STRUCTURE.axes_of_kinds(KINDS))
    first_item = limit(STRUCTURE, 0.5, scope="gated", gated=gated)
    choice = pick(STRUCTURE, scores, first_item)
    assert 0 <= first_item.max_cost - first_item.cost.count(choice.selection) <= DEFAULT_SLACK * first_item.cost.dense
    assert choice.binding_limit == "parameters-gated"


def test_widths_of_a_head_are_rounded_and_the_rounding_cost_counts_both_parts() -> None:
    scores = scores_of(STRUCTURE, KINDS, 2)
    choice = pick(STRUCTURE, scores, ENCODER, TRANSDUCER, round_to={"units": 4, "predictor": 4, "joiner": 5})
    for axis in STRUCTURE.axes_of_kinds(HEAD_KINDS):
        assert len(choice.selection.axes[axis.name]) % (5 if axis.kind == "joiner" else 4) == 0
    assert choice.rounding is not None
    assert set(choice.rounding.given_up) == {"parameters-whole", "parameters-transducer"}
    plain = pick(STRUCTURE, scores, ENCODER, TRANSDUCER)
    for name, selection in choice.selection.axes.items():
        if STRUCTURE.axes[name].kind == "joiner":
            assert choice.rounding.opened["joiner"] == len(set(selection) - set(plain.selection.axes[name]))


def test_by_score_the_same_share_of_every_axis_of_a_part_stays() -> None:
    scores = torch.rand(STRUCTURE.size, generator=torch.Generator().manual_seed(3))
    choice = choose_uniform_share(STRUCTURE, scores, KINDS, [ENCODER, TRANSDUCER])
    head = [len(choice.selection.axes[axis.name]) for axis in STRUCTURE.axes_of_kinds(HEAD_KINDS)]
    units = [len(choice.selection.axes[axis.name]) for axis in STRUCTURE.axes_of_kinds(("units",))]
    assert max(head) - min(head) <= 1
    assert max(units) - min(units) <= 1
    for item in (ENCODER, TRANSDUCER):
        assert 0 <= item.max_cost - item.cost.count(choice.selection) <= 0.02 * item.cost.dense
