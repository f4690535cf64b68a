"""Shapes that stock classes can express load in unmodified stock classes and give the masked model's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from support import FAST_CONFORMERS, MODELS, TOLERANCE, audio, difference, outputs, tiny, tiny_structure

import wav2vec2_axes as names
from secateur.architectures.registry import FAMILIES
from secateur.errors import SelectionError
from secateur.hf.model_view import ModelView
from secateur.masking import attach, mask_values
from secateur.structure import Selection, Structure, normalize
from secateur.surgery import cut

SHAPE = Selection(
    axes={
        names.channels(0): (1, 2, 5),
        names.channels(2): (0, 3),
        **{names.feed_forward_units(layer): units for layer, units in enumerate(((0, 4, 9), (2, 3, 4), (1, 5, 8)))},
        names.whole_layer(2): (),
    },
    scales={names.channels(0): (0.5, 1.25, 0.75), names.feed_forward_units(1): (2.0, 0.5, 0.25)},
)


def shape_for(structure: Structure) -> Selection:
    """That shape, or as much of one as a Conformer can have."""
    if names.heads(0) in structure.axes:
        return SHAPE
    narrow = {axis.name: (0, 4, 9)[: axis.size] for axis in structure.axes_of_kinds(("units",))}
    front = {axis.name: (1, 2) for axis in structure.axes_of_kinds(("channels",)) if axis.min_units}
    last = list(structure.axes_of_kinds(("layer",)))[-1].name
    return Selection(axes={**narrow, **front, last: ()}, scales={next(iter(narrow)): (2.0, 0.5, 0.25)})


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_stock_layout_loads_in_the_stock_class_and_equals_the_masked_model(
    family: str, size: str, tmp_path: Path
) -> None:
    dense, structure = tiny(family, size, "ForCTC"), tiny_structure(family, size)
    selection = shape_for(structure)
    small = cut(dense, selection, layout="stock")
    stock = getattr(transformers, FAMILIES[family].stem + "ForCTC")
    assert type(small) is stock
    small.save_pretrained(tmp_path)
    loaded, info = stock.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    values, mask = audio((2400, 1200))
    masking = attach(ModelView.of(dense).encoder, structure)
    try:
        masking.set(mask_values(structure, normalize(structure, selection).selection, torch.float32))
        masked = outputs(dense, values, mask)
    finally:
        masking.remove()
    actual_outputs = outputs(loaded.eval(), values, mask)
    assert difference(masked[-1], actual_outputs[-1]) <= TOLERANCE[torch.float32]
    assert difference(masked[1], actual_outputs[1]) <= TOLERANCE[torch.float32]


GROUPS = names.positional_groups()
OBSTACLES = {
    "the positional convolution has 3 of 4 groups": {GROUPS: (0, 2, 3)},
    "the attention block of layer 1 is removed": {names.attention_block(1): ()},
    "the feed-forward block of layer 0 is removed": {names.feed_forward_block(0): ()},
    "layer 2 has 3 of 4 heads": {names.heads(2): (0, 1, 3)},
    "heads of layer 0 have lost single dimensions": {names.query_key(0, 1): (0, 1)},
    "the feed-forward block of layer 0 has no units left": {names.feed_forward_units(i): () for i in range(3)},
    "feed-forward widths differ: 10 in layer 0, 1 in layer 1": {names.feed_forward_units(1): (4,)},
}


@pytest.mark.parametrize("sentence", OBSTACLES)
def test_stock_layout_names_what_prevents_it(sentence: str) -> None:
    with pytest.raises(SelectionError, match=sentence):
        cut(tiny("hubert", "base"), Selection(axes=OBSTACLES[sentence]), layout="stock")


CONFORMER = "encoder.layers.1"
CONFORMER_OBSTACLES = {
    "the attention block of layer 1 is removed": {f"{CONFORMER}.self_attn/block": ()},
    "layer 1 has 1 of 4 heads": {f"{CONFORMER}.self_attn/heads": (2,)},
    "heads of layer 1 have lost single dimensions": {f"{CONFORMER}.self_attn/head3.vo": (2,)},
    "the convolution module of layer 1 has 2 of 24 channels": {f"{CONFORMER}.conv_module/channels": (2, 5)},
    "ffn2 of layer 1 has no units left": {f"{CONFORMER}.ffn2/block": ()},
    "feed-forward widths differ: 10 in ffn1 of layer 0, 1 in ffn1 of layer 1": {f"{CONFORMER}.ffn1/units": (3,)},
}


@pytest.mark.parametrize("sentence", CONFORMER_OBSTACLES)
def test_stock_layout_names_what_prevents_it_in_a_conformer(sentence: str) -> None:
    with pytest.raises(SelectionError, match=sentence):
        cut(tiny("wav2vec2-bert", "base"), Selection(axes=CONFORMER_OBSTACLES[sentence]), layout="stock")


@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_a_fast_conformer_of_equal_widths_is_a_stock_one(family: str, tmp_path: Path) -> None:
    dense, structure = tiny(family, "base"), tiny_structure(family, "base")
    kinds = {axis.name: axis.kind for axis in structure.axes.values()}
    front = {name: (0, 2) for name, kind in kinds.items() if kind == "channels" and name.startswith("subsampling.")}
    narrow = {name: (0, 4, 9) for name, kind in kinds.items() if kind == "units"}
    last = list(structure.axes_of_kinds(("layer",)))[-1].name
    selection = Selection(axes={**front, **narrow, last: ()}, scales={next(iter(front)): (2.0, 0.5)})
    small = cut(dense, selection, layout="stock")
    small.save_pretrained(tmp_path)
    loaded, info = type(dense).from_pretrained(tmp_path, output_loading_info=True)
    assert type(small) is type(dense)
    assert not any(info.values())
    features = torch.randn(structure.input_shape(2, 9000))
    masking = attach(dense, structure)
    try:
        masking.set(mask_values(structure, normalize(structure, selection).selection, torch.float32))
        masked = dense(features).last_hidden_state
    finally:
        masking.remove()
    assert difference(masked, loaded.eval()(features).last_hidden_state) <= TOLERANCE[torch.float32]


FAST_OBSTACLES = {
    "the attention block of layer 1 is removed": {"layers.1.self_attn/block": ()},
    "layer 1 has 1 of 4 heads": {"layers.1.self_attn/heads": (2,)},
    "heads of layer 1 have lost single dimensions": {"layers.1.self_attn/vo": (2,)},
    "the convolution module of layer 1 has 2 of 24 channels": {"layers.1.conv/channels": (2, 5)},
    "feed_forward2 of layer 1 has no units left": {"layers.1.feed_forward2/block": ()},
    "feed-forward widths differ: 10 in feed_forward1 of layer 0, 1 in feed_forward1 of layer 1": {
        "layers.1.feed_forward1/units": (3,)
    },
    "subsampling widths differ: 1, [0-9]+": {"subsampling.layers.0/channels": (1,)},
}


@pytest.mark.parametrize("sentence", FAST_OBSTACLES)
def test_stock_layout_names_what_prevents_it_in_a_fast_conformer(sentence: str) -> None:
    with pytest.raises(SelectionError, match=sentence):
        cut(tiny("parakeet_encoder", "base"), Selection(axes=FAST_OBSTACLES[sentence]), layout="stock")


def test_what_a_cut_model_has_dropped_is_not_made_up_for_the_stock_layout() -> None:
    small = cut(tiny("wav2vec2-conformer", "base"), Selection(axes={}))
    with pytest.raises(SelectionError, match=r"encoder\.pos_conv_embed\.conv\.bias, which this model has not"):
        cut(small, Selection(axes={}), layout="stock")


def test_stock_layout_has_no_place_for_the_scale_of_a_positional_group() -> None:
    scaled = Selection(axes={GROUPS: (0, 1, 2, 3)}, scales={GROUPS: (1.0, 0.5, 1.0, 1.0)})
    with pytest.raises(SelectionError, match="groups of the positional convolution are scaled, which folds into no"):
        cut(tiny("hubert", "base"), scaled, layout="stock")
