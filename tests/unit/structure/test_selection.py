"""Selections: reading, every sentence of refusal, and closing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_structure

import wav2vec2_axes as names
from secateur.errors import ConfigError, SelectionError
from secateur.structure import Selection, normalize
from secateur.structure.axis import from_ranges, kind_of, to_ranges

STRUCTURE = tiny_structure("hubert", "base")


def read(**fields: Any) -> Selection:
    return Selection.from_json({"format": 1} | fields)


@given(st.sets(st.integers(0, 400)))
def test_ranges_give_back_what_was_written(indices: set[int]) -> None:
    assert from_ranges(to_ranges(tuple(indices))) == tuple(sorted(indices))


def test_ranges_are_written_as_by_hand() -> None:
    assert to_ranges((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert (to_ranges(()), to_ranges((4,))) == ("", "4")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (names.channels(3), "channels"),
        (names.positional_groups(), "groups"),
        (names.query_key(1, 11), "qk"),
        (names.value_output(0, 2), "vo"),
        (names.whole_layer(4), "layer"),
        (names.feed_forward_block(4), "block"),
    ],
)
def test_the_kind_is_the_last_word_of_the_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_public_axis_names_are_these() -> None:
    assert names.channels(2) == "feature_extractor.conv_layers.2/channels"
    assert names.positional_groups() == "encoder.pos_conv_embed.conv/groups"
    assert names.heads(2) == "encoder.layers.2.attention/heads"
    assert names.query_key(2, 7) == "encoder.layers.2.attention/head7.qk"
    assert names.value_output(2, 7) == "encoder.layers.2.attention/head7.vo"
    assert names.attention_block(2) == "encoder.layers.2.attention/block"
    assert names.feed_forward_units(2) == "encoder.layers.2.feed_forward/units"
    assert names.feed_forward_block(2) == "encoder.layers.2.feed_forward/block"
    assert names.whole_layer(2) == "encoder.layers.2/layer"


def test_json_comes_back_with_units_in_order_and_scales_beside_them(tmp_path: Path) -> None:
    name = names.feed_forward_units(0)
    selection = read(axes={name: [7, 2]}, scales={name: [0.5, 2]}, sizes={name: 10}, model="hubert")
    assert selection.axes == {name: (2, 7)}
    assert selection.scales == {name: (2.0, 0.5)}
    path = tmp_path / "selection.json"
    path.write_text(json.dumps(selection.to_json()))
    assert Selection.load(path) == selection


UNITS = names.feed_forward_units(0)
UNREADABLE: list[tuple[object, str]] = [
    ([], r'A selection is a JSON object with "format": 1; got \'list\''),
    ({"axes": {}}, r'"format": 1; got None'),
    ({"format": 2}, r'"format": 1; got 2'),
    ({"format": 1, "axis": {}}, r"Unknown key 'axis' in the selection. Did you mean 'axes'\?"),
    ({"format": 1, "axes": []}, r"'axes' must be an object keyed by axis name, got list"),
    ({"format": 1, "axes": {UNITS: "0-3"}}, "must be a list of whole numbers"),
    ({"format": 1, "axes": {UNITS: [0.5]}}, "must be a list of whole numbers"),
    ({"format": 1, "axes": {UNITS: [True]}}, "must be a list of whole numbers"),
    ({"format": 1, "axes": {UNITS: [1, 1]}}, "name a unit twice"),
    ({"format": 1, "axes": {}, "scales": {UNITS: [1.0]}}, "has scales for .* but does not list its kept units"),
    ({"format": 1, "axes": {UNITS: [1, 2]}, "scales": {UNITS: [1.0]}}, "keeps 2 units but has 1 scales"),
    ({"format": 1, "axes": {UNITS: [1]}, "scales": {UNITS: 1.0}}, "keeps 1 units but has float scales"),
    ({"format": 1, "axes": {UNITS: [1]}, "scales": {UNITS: [float("nan")]}}, "must be finite numbers"),
    ({"format": 1, "axes": {UNITS: [1]}, "scales": {UNITS: [float("inf")]}}, "must be finite numbers"),
    ({"format": 1, "axes": {UNITS: [1]}, "scales": {UNITS: ["1"]}}, "must be finite numbers"),
    ({"format": 1, "model": 3}, "model must be a model type such as 'wavlm', got 3"),
]


@pytest.mark.parametrize(("data", "sentence"), UNREADABLE, ids=[sentence for _, sentence in UNREADABLE])
def test_what_is_no_selection_is_refused_in_a_sentence(data: object, sentence: str) -> None:
    with pytest.raises(SelectionError, match=sentence):
        Selection.from_json(data)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="There is no selection file"):
        Selection.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SelectionError, match="is not readable JSON"):
        Selection.load(tmp_path / "bad.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SelectionError, match="is not readable JSON"):
        Selection.load(tmp_path / "bytes.json")


UNFIT: list[tuple[Selection, str]] = [
    (
        Selection(axes={"encoder.layers.0.atention/heads": (0,)}),
        r"Unknown axis 'encoder.layers.0.atention/heads' .* Did you mean 'encoder.layers.0.attention/heads'\?",
    ),
    (Selection(axes={}, sizes={"encoder.layers.0.feedforward/units": 3}), "Unknown axis .* Did you mean"),
    (Selection(axes={}, sizes={UNITS: 12}), "expects 12 units on .* but the original model has 10"),
    (Selection(axes={}, model="wavlm"), "made for a 'wavlm' model, but this model is 'hubert'"),
    (Selection(axes={UNITS: (0, 10)}), r"does not have: unit 10 is not one of 0\.\.9"),
    (Selection(axes={UNITS: (-1, 3)}), r"does not have: unit -1 is not one of 0\.\.9"),
    (
        Selection(axes={names.whole_layer(1): ()}),
        r"'encoder.layers.1/layer' is removed but a later layer stays; only trailing layers",
    ),
    (
        Selection(axes={names.whole_layer(layer): () for layer in range(3)}),
        "'encoder.layers.0/layer' cannot be removed: at least the first layer stays",
    ),
    (Selection(axes={UNITS: (1, 2)}, scales={UNITS: (0.5, 0.0)}), "keeps unit 2 of .* with scale 0"),
    (Selection(axes={}, scales={UNITS: (1.0,)}), "does not list its kept units"),
    (
        Selection(axes={names.whole_layer(2): (0,)}, scales={names.whole_layer(2): (0.5,)}),
        "A whole layer cannot be scaled",
    ),
]


@pytest.mark.parametrize(("selection", "sentence"), UNFIT, ids=[sentence for _, sentence in UNFIT])
def test_a_selection_that_does_not_fit_is_refused_in_a_sentence(selection: Selection, sentence: str) -> None:
    with pytest.raises(SelectionError, match=sentence):
        normalize(STRUCTURE, selection)


def test_closing_names_every_axis_with_its_original_size() -> None:
    closed = normalize(STRUCTURE, Selection(axes={})).selection
    assert closed.axes.keys() == closed.sizes.keys() == STRUCTURE.axes.keys()
    assert all(len(closed.axes[name]) == size for name, size in closed.sizes.items())
    assert closed.model == "hubert"


def test_closing_twice_changes_nothing() -> None:
    selection = Selection(
        axes={names.value_output(0, 1): (), names.attention_block(1): (), UNITS: (1, 2), names.channels(0): ()},
        scales={UNITS: (0.5, 2.0)},
    )
    original = normalize(STRUCTURE, selection).selection
    assert normalize(STRUCTURE, original).selection == original


def test_closing_a_removed_layer_takes_all_inside_with_it() -> None:
    closed = normalize(STRUCTURE, Selection(axes={names.whole_layer(2): ()})).selection
    assert not any(kept_units for name, kept_units in closed.axes.items() if name.startswith("encoder.layers.2"))


def test_closing_a_removed_block_leaves_the_layers_other_block() -> None:
    closed = normalize(STRUCTURE, Selection(axes={names.attention_block(1): ()})).selection
    assert closed.axes[names.heads(1)] == closed.axes[names.value_output(1, 3)] == ()
    assert len(closed.axes[names.feed_forward_units(1)]) == 10


def test_closing_keeps_the_first_unit_of_an_empty_convolution_and_says_so() -> None:
    closed = normalize(STRUCTURE, Selection(axes={names.channels(1): ()}))
    assert closed.selection.axes[names.channels(1)] == (0,)
    assert closed.adjustments == (f"{names.channels(1)} was left without a unit; its unit 0 stays",)


def test_closing_keeps_a_group_of_the_positional_convolution() -> None:
    closed = normalize(STRUCTURE, Selection(axes={names.positional_groups(): ()}))
    assert closed.selection.axes[names.positional_groups()] == (0,)
    assert closed.adjustments == (f"{names.positional_groups()} was left without a unit; its unit 0 stays",)


def test_data2vecs_stack_of_positional_convolutions_has_no_groups_to_remove() -> None:
    with pytest.raises(SelectionError, match=r"Unknown axis 'encoder.pos_conv_embed.conv/groups' .* data2vec-audio"):
        normalize(tiny_structure("data2vec-audio", "base"), Selection(axes={names.positional_groups(): (0,)}))


def test_closing_leaves_a_block_whose_heads_are_all_dead() -> None:
    dead = {names.value_output(0, head): () for head in range(4)}
    closed = normalize(STRUCTURE, Selection(axes=dead)).selection
    assert closed.axes[names.heads(0)] == ()
    assert closed.axes[names.attention_block(0)] == (0,)


def test_closing_keeps_a_head_without_query_key_dimensions() -> None:
    closed = normalize(STRUCTURE, Selection(axes={names.query_key(0, 2): ()})).selection
    assert closed.axes[names.heads(0)] == (0, 1, 2, 3)


def test_an_unknown_axis_or_scope_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'encoder.layers.1.feed_forward/units'\?"):
        STRUCTURE.axis("encoder.layers.1.feed_forward/unit")
    with pytest.raises(ConfigError, match=r"names no part of this hubert model; .* Did you mean 'frontend'\?"):
        STRUCTURE.check_scope("front-end")


def test_lengths_follow_each_convolution() -> None:
    assert STRUCTURE.lengths(1600) == (1600, 160, 40, 10)
    assert STRUCTURE.lengths(69)[-1] == 0
    assert STRUCTURE.lengths(70)[-1] == 1
