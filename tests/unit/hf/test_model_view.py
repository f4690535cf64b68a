"""A view identifies a model: its family, encoder, head class and structure."""

from __future__ import annotations

import pytest
from support import tiny, tiny_config
from transducer_toy import transducer
from transformers import BertConfig

from secateur.errors import ModelError
from secateur.hf.declare import declare
from secateur.hf.model_view import ConfigView, ModelView


def test_bare_encoder_is_its_own_encoder() -> None:
    model = tiny("wavlm", "base")
    view = ModelView.of(model)
    assert (view.encoder, view.prefix, view.head_class, view.has_head) == (model, "", "Model", False)
    assert view.encoder_view is view


def test_head_lies_outside_the_encoder() -> None:
    model = tiny("hubert", "base", "ForCTC")
    view = ModelView.of(model)
    assert (view.model_type, view.head_class, view.prefix) == ("hubert", "ForCTC", "hubert.")
    assert view.encoder is model.hubert
    assert not view.holds_encoder
    assert view.parts == (model.config,)
    assert view.encoder_view.head_class == "Model"


def test_config_of_a_transducer_holds_the_config_of_its_encoder() -> None:
    model = transducer()
    view = ModelView.of(model)
    assert (view.head_class, view.held_head_class, view.prefix) == ("ForRNNT", "ForRNNT", "encoder.")
    assert view.holds_encoder
    assert view.encoder_config is model.config.encoder_config
    assert view.encoder_view.held_head_class == ""


def test_structure_equals_the_declared_structure_of_the_config() -> None:
    config = tiny_config("wavlm", "base")
    view = ConfigView(config)
    assert view.structure.axes == declare(config).axes
    assert view.shape.model_type == "wavlm"


def test_view_of_a_view_is_the_view() -> None:
    view = ModelView.of(tiny("wavlm", "base"))
    assert ModelView.of(view) is view
    assert ConfigView.of_config(view) is view


def test_unsupported_family_is_named_when_accessed() -> None:
    view = ConfigView(BertConfig())
    with pytest.raises(ModelError, match="'bert' is not supported"):
        _ = view.model_type
