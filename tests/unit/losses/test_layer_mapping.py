"""Pairing of layers: planted pairs are found, and the edge cases have an answer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import ConfigError
from secateur.losses.layer_mapping import (
    FixedLayerMapping,
    LearnedLayerMapping,
    StudentProjections,
    match_layers,
    teacher_layers,
)


@settings(max_examples=40)
@given(data=st.data(), depth=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_a_planted_pairing_is_found(data: st.DataObject, depth: int, seed: int) -> None:
    count = data.draw(st.integers(1, depth))
    planted = data.draw(st.sampled_from(list(combinations(range(1, depth + 1), count))))
    distances = 1 + torch.rand(count, depth, generator=torch.Generator().manual_seed(seed))
    for row, layer in enumerate(planted):
        distances[row, layer - 1] = 0.1
    assert match_layers(distances, range(1, count + 1), [True] * depth) == planted


@settings(max_examples=60)
@given(data=st.data(), depth=st.integers(1, 10), seed=st.integers(0, 10**6))
def test_layers_are_different_and_ascending_whatever_is_closed(data: st.DataObject, depth: int, seed: int) -> None:
    count = data.draw(st.integers(1, depth))
    is_open = data.draw(st.lists(st.booleans(), min_size=depth, max_size=depth))
    distances = torch.rand(count, depth, generator=torch.Generator().manual_seed(seed))
    selected_items = match_layers(distances, range(1, count + 1), is_open)
    assert list(selected_items) == sorted(set(selected_items))
    assert len(selected_items) == count
    assert selected_items[0] >= 1
    assert selected_items[-1] <= depth
    # The last teacher layer chose freely: the nearest open layer that leaves enough below it.
    candidates = [k for k in range(count, depth + 1) if is_open[k - 1]] or list(range(count, depth + 1))
    assert distances[-1, selected_items[-1] - 1] == min(distances[-1, k - 1] for k in candidates)


def test_a_closed_attention_block_is_passed_over_for_a_farther_open_one() -> None:
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    assert match_layers(distances, [4], [True] * 4) == (1,)
    assert match_layers(distances, [4], [False, False, True, True]) == (3,)
    assert match_layers(distances, [4], [False] * 4) == (1,)


def test_enough_layers_are_left_for_the_teacher_layers_still_to_come() -> None:
    # Every teacher layer is nearest to student layer 1: only the lowest may have it.
    distances = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 3)
    assert match_layers(distances, [1, 2, 3], [True] * 4) == (1, 2, 3)
    assert match_layers(torch.zeros(4, 4), [1, 2, 3, 4], [True] * 4) == (1, 2, 3, 4)


def test_of_equally_near_layers_the_higher_is_taken() -> None:
    assert match_layers(torch.zeros(1, 4), [4], [True] * 4) == (4,)
    assert match_layers(torch.zeros(2, 4), [2, 4], [True] * 4) == (3, 4)


@pytest.mark.parametrize(
    ("pairing", "depth", "expected"),
    [
        (FixedLayerMapping(), 12, (0, 4, 8, 12)),
        (FixedLayerMapping(), 24, (0, 8, 16, 24)),
        (FixedLayerMapping(), 2, (0, 1, 2)),
        (FixedLayerMapping(), 1, (0, 1)),
        (LearnedLayerMapping(), 12, (3, 6, 9, 12)),
        (LearnedLayerMapping(), 3, (1, 2, 3)),
        (LearnedLayerMapping(), 1, (1,)),
        (FixedLayerMapping(layers=(5, 0)), 6, (0, 5)),
    ],
)
def test_default_layers_are_spread_over_the_depth(pairing: Any, depth: int, expected: tuple[int, ...]) -> None:
    assert teacher_layers(pairing, depth) == expected


@pytest.mark.parametrize(
    "pairing",
    [
        FixedLayerMapping(layers=(13,)),
        FixedLayerMapping(layers=(-1,)),
        FixedLayerMapping(layers=()),
        FixedLayerMapping(layers=(3, 3)),
        LearnedLayerMapping(layers=(0,)),
    ],
)
def test_layers_that_are_not_there_are_refused(pairing: Any) -> None:
    with pytest.raises(ConfigError, match=r"distill.pairing.layers: got \[.*\], expected distinct numbers"):
        teacher_layers(pairing, 12)


@pytest.mark.parametrize(("kind", "names"), [("none", []), ("shared", ["input", "layers"]), ("each", ["0", "4", "12"])])
def test_maps_start_as_the_identity_and_are_shared_as_said(kind: Any, names: list[str]) -> None:
    maps = StudentProjections(kind, (0, 4, 12), 6)
    assert list(maps.maps) == names
    state = torch.randn(2, 3, 6)
    for layer in (0, 4, 12):
        torch.testing.assert_close(maps(state, layer), state)
    if kind != "none":
        with torch.no_grad():
            maps.maps[names[-1]].weight.zero_()
        changed = [not torch.allclose(maps(state, layer), state) for layer in (0, 4, 12)]
        assert changed == ([False, True, True] if kind == "shared" else [False, False, True])
