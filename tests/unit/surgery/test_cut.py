"""Cutting: what is refused, what is carried along, what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support import audio, build, outputs, tiny, tiny_config

import wav2vec2_axes as names
from secateur.errors import ModelError, SecateurError, SelectionError
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.hf.save import atomic_folder, write_model
from secateur.masking import attach
from secateur.structure import Selection
from secateur.surgery import cut, load_config, load_model

SMALL = Selection(axes={names.heads(0): (1, 2), names.channels(0): (0, 3)})


def test_cutting_leaves_the_model_as_it_was() -> None:
    model = build(tiny_config("wavlm", "base"))
    initial_state = {name: value.clone() for name, value in model.state_dict().items()}
    small = cut(model, SMALL)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(value, initial_state[name]) for name, value in model.state_dict().items())


def test_a_model_with_masks_in_it_is_refused() -> None:
    model = build(tiny_config("wavlm", "base"))
    masking = attach(model, declare(model.config))
    with pytest.raises(ModelError, match="Masks are attached"):
        cut(model, SMALL)
    masking.remove()
    cut(model, SMALL)


@pytest.mark.parametrize("ending", ["ForCTC", "ForSequenceClassification", "ForAudioFrameClassification"])
def test_the_task_head_is_kept_to_the_bit(ending: str) -> None:
    model = tiny("hubert" if ending != "ForAudioFrameClassification" else "wavlm", "base", ending)
    small = cut(model, SMALL)
    prefix = model.base_model_prefix
    heads = {name: value for name, value in model.state_dict().items() if not name.startswith(prefix)}
    assert heads
    assert all(torch.equal(small.state_dict()[name], value) for name, value in heads.items())


def test_every_parameter_of_a_cut_model_can_be_trained() -> None:
    model = build(tiny_config("hubert", "base"))
    model.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in cut(model, SMALL).parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_mode_are_kept(dtype: torch.dtype) -> None:
    model = tiny("hubert", "base", dtype=dtype)
    small = cut(model, SMALL)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert not small.training


def test_a_pretraining_head_cannot_be_cut() -> None:
    model = transformers.Wav2Vec2ForPreTraining(tiny_config("wav2vec2", "base"))
    with pytest.raises(
        ModelError, match="A Wav2Vec2ForPreTraining cannot be cut; allowed are the classes Model, ForCTC"
    ):
        cut(model, SMALL)


def test_trimming_under_a_weighted_layer_sum_is_refused() -> None:
    model = build(tiny_config("hubert", "base", use_weighted_layer_sum=True), "ForSequenceClassification")
    with pytest.raises(SelectionError, match="use_weighted_layer_sum"):
        cut(model, Selection(axes={names.whole_layer(2): ()}))
    assert len(outputs(cut(model, SMALL), *audio((1600,)))) == 5


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"add_adapter": True}, "add_adapter"), ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm")],
)
def test_a_config_that_switches_on_something_unsupported_is_refused(fields: dict[str, bool], sentence: str) -> None:
    from secateur.hf.declare import declare

    family = "wav2vec2" if "add_adapter" in fields else "hubert"
    with pytest.raises(ModelError, match=sentence):
        declare(tiny_config(family, "base", **fields))


def test_a_folder_that_is_no_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path
    with pytest.raises(ModelError, match=r"There is no config\.json"):
        load_config(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not readable JSON"):
        load_config(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no model_type"):
        load_config(folder)
    (folder / "config.json").write_text('{"model_type": "wavml"}')
    with pytest.raises(ModelError, match=r"'wavml' is not supported; allowed are .* Did you mean 'wavlm'\?"):
        load_config(folder)
    (folder / "config.json").write_text('{"model_type": "secateur-hubert", "conv_dim": []}')
    with pytest.raises(ModelError, match="'secateur' entry"):
        load_config(folder)
    tiny_config("hubert", "base").save_pretrained(folder)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)


def test_a_config_with_scales_that_fit_no_group_is_refused() -> None:
    name = names.positional_groups()
    config = cut(tiny("hubert", "base"), Selection(axes={name: (0, 3)}, scales={name: (0.5, 2.0)})).config
    assert config.secateur["scales"] == {name: [0.5, 2.0]}
    config.secateur["scales"] = {name: [0.5]}
    with pytest.raises(ModelError, match=r"has 1 scales for the 2 units of 'encoder\.pos_conv_embed\.conv/groups'"):
        declare(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "has the format 2; allowed is 1"),
        ({"axes": {"encoder.layers.0.feed_forward/units": "a-3"}}, "keeps 'a-3' of the axis .* ascending units"),
        ({"axes": {"encoder.layers.0.feed_forward/units": "0,0-2"}}, "keeps '0,0-2' of the axis"),
        ({"axes": {"encoder.layers.0.feed_forward/units": "7-12"}}, "keeps unit 12 of the axis .*, which had 10"),
        ({"axes": {"encoder.layers.0.feed_forward/unit": "0-3"}}, "which this model lacks. Did you mean .*units'"),
    ],
)
def test_an_edited_shape_that_no_cut_gives_is_refused(changes: dict[str, Any], sentence: str) -> None:
    config = cut(tiny("hubert", "base"), Selection(axes={names.feed_forward_units(0): (0, 3)})).config
    config.secateur |= changes
    with pytest.raises(ModelError, match=sentence):
        declare(config)


def _fail_in(folder: Path) -> None:
    (folder / "half").write_text("x")
    raise RuntimeError("stop")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(folder) as partial:
        _fail_in(partial)
    assert list(folder.parent.iterdir()) == []
    cut_view = ModelView(cut(tiny("hubert", "base"), SMALL))
    with atomic_folder(folder) as partial:
        write_model(partial, cut_view, source=None)
    assert {path.name for path in folder.parent.iterdir()} == {"model"}
    with pytest.raises(SecateurError, match="exists already and is not empty"), atomic_folder(folder):
        pass
    with atomic_folder(folder, replace=True) as partial:
        write_model(partial, cut_view, source=None)
    assert load_model(folder).config.model_type == "secateur-hubert"
