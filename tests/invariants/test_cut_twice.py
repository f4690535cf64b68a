"""Indices stay the original model's: a cut of a cut is one cut with what both keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from support import FAST_LOW_RANK, LOW_RANK, MODELS, Plan, make_selection, plans, tiny, tiny_structure

import wav2vec2_axes as names
from secateur.errors import SelectionError
from secateur.hf.declare import declare
from secateur.structure import Selection, normalize
from secateur.structure.encoder_shape import PositionalConvShape
from secateur.surgery import cut
from secateur.surgery.verify import verify


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK + FAST_LOW_RANK)
@given(first=plans(ragged=True), second=plans(ragged=False))
def test_a_cut_of_a_cut_is_one_cut_with_the_intersection(family: str, size: str, first: Plan, second: Plan) -> None:
    dense, structure = tiny(family, size, dtype=torch.float64), tiny_structure(family, size)
    first_item = normalize(structure, make_selection(structure, first)).selection
    small = cut(dense, first_item)
    inner = declare(small.config)
    two = normalize(inner, make_selection(inner, replace(second, trimmed=min(second.trimmed, 1)))).selection
    smallest = cut(small, two)
    axes = {**first_item.axes, **two.axes}  # ranks of a map that is one matrix since the first cut
    scales = {}
    for name, kept_units in axes.items():
        initial, final = (
            first_item.scale_by_unit(name),
            two.scale_by_unit(name) if name in two.axes else dict.fromkeys(kept_units, 1.0),
        )
        scales[name] = tuple(initial[unit] * final[unit] for unit in kept_units)
    pair = Selection(axes=axes, scales=scales)
    at_once = cut(dense, pair)
    assert smallest.config.secateur == at_once.config.secateur
    assert smallest.state_dict().keys() == at_once.state_dict().keys()
    for name, value in state(smallest).items():
        torch.testing.assert_close(value, state(at_once)[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_a_cut_model_is_masked_as_it_is_cut_again(family: str) -> None:
    name = names.positional_groups()
    first = Selection(axes={name: (0, 2, 3)}, scales={name: (0.5, 2.0, 1.0)})
    small = cut(tiny(family, "base", dtype=torch.float64), first)
    second = Selection(axes={name: (0, 3)}, scales={name: (1.5, 0.25)})
    smaller = cut(small, second)
    proof = verify(smaller, small, second)
    assert proof.holds, proof
    assert smaller.encoder.pos_conv_embed.shape == PositionalConvShape(
        original_groups=4, groups=(0, 3), scales=(0.75, 0.25)
    )


def test_errors_distinguish_removed_units_from_units_that_never_existed() -> None:
    small = cut(tiny("hubert", "base"), Selection(axes={names.feed_forward_units(0): (1, 3)}))
    with pytest.raises(SelectionError, match=r"units \[0\] were removed before"):
        cut(small, Selection(axes={names.feed_forward_units(0): (0, 1)}))
    with pytest.raises(SelectionError, match=r"unit 10 is not one of 0\.\.9"):
        cut(small, Selection(axes={names.feed_forward_units(0): (3, 10)}))
