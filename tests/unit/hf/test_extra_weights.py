"""Extra weights and adapters are kept with the cut model if they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoint_toy import NARROW, add, drop, folder_of, same
from safetensors.torch import load_file, save_file
from support import build, tiny, tiny_config
from torch import Tensor

from secateur.hf.load import load_checkpoint, load_view
from secateur.hf.model_view import ModelView
from secateur.hf.save import write_model
from secateur.structure import Selection
from secateur.surgery.cut import cut_view


def test_a_head_of_another_shape_is_kept_as_extra_weights_of_a_bare_encoder(tmp_path: Path) -> None:
    def another(state: dict[str, Tensor]) -> None:
        drop("classifier", "projector")(state)
        add(classifier__dense__weight=(24, 24), classifier__weight=(2, 24))(state)

    folder = folder_of(tmp_path / "a", tiny("wav2vec2", "base", "ForSequenceClassification"), another)
    checkpoint = load_checkpoint(folder)
    assert set(checkpoint.extra.tensors) == {"classifier.dense.weight", "classifier.weight"}
    small = cut_view(checkpoint.view, NARROW)
    out = tmp_path / "out"
    out.mkdir()
    write_model(out, small, source=folder, weights=checkpoint.extra.state_dict(checkpoint.view, small))
    assert {"wav2vec2.masked_spec_embed", "classifier.dense.weight"} <= load_file(out / "model.safetensors").keys()
    assert same(transformers.AutoModel.from_pretrained(out), small.model)
    assert set(load_checkpoint(out).extra.tensors) == set(checkpoint.extra.tensors)
    taught = ModelView(build(tiny_config("wav2vec2", "base"), "ForSequenceClassification"))
    kept_units, reason = checkpoint.extra.select_fitting(checkpoint.view, taught)
    assert (kept_units, reason) == (
        {},
        ("classifier (2 weights beside the encoder) is left out: the model has a new head of that name",),
    )


def test_a_user_defined_class_loads_its_projection_with_a_cut_encoder(tmp_path: Path) -> None:
    class WithProjection(transformers.HubertModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.final_proj = torch.nn.Linear(config.hidden_size, 8)
            self.post_init()

    change = add(final_proj__weight=(8, 24), final_proj__bias=(8,))
    folder = folder_of(tmp_path / "a", tiny("hubert", "base"), change, architectures=["HubertModelWithFinalProj"])
    checkpoint = load_checkpoint(folder)
    small = cut_view(checkpoint.view, NARROW, layout="stock")
    (tmp_path / "out").mkdir()
    weights = checkpoint.extra.state_dict(checkpoint.view, small)
    write_model(tmp_path / "out", small, source=folder, weights=weights)
    loaded_model, info = WithProjection.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(loaded_model.final_proj.weight, checkpoint.extra.tensors["final_proj.weight"])


def test_pre_training_weights_are_kept_unless_they_take_removed_channels(tmp_path: Path) -> None:
    config = tiny_config("wav2vec2", "base", codevector_dim=6, proj_codevector_dim=6, num_codevectors_per_group=4)
    checkpoint = load_checkpoint(folder_of(tmp_path, transformers.Wav2Vec2ForPreTraining(config)))
    kept_units, reason = checkpoint.extra.select_fitting(checkpoint.view, cut_view(checkpoint.view, NARROW))
    assert set(kept_units) == {f"{name}.{kind}" for name in ("project_q", "project_hid") for kind in ("weight", "bias")}
    assert len(reason) == 1
    assert "quantizer (3 weights beside the encoder) is left out: it takes 7 channels of the front end" in reason[0]
    assert not checkpoint.extra.select_fitting(checkpoint.view, checkpoint.view)[1]


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ({"featurizer__weights": (4,)}, "4 values, as many as there were hidden states"),
        ({"layer_weights": (3,)}, "3 values, as many as there were layers"),
        ({"wsum__w": (4, 1, 1)}, "4 values, as many as there were hidden states"),
        ({"mix__weight": (1, 4), "mix__bias": (1,)}, "4 values, as many as there were hidden states"),
        (
            {"head__mix": (3,), "head__out__weight": (5, 24), "head__norm__weight": (24,)},
            "3 values, as many as there were layers",
        ),
    ],
)
def test_weights_of_hidden_states_are_dropped_with_fewer_layers(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], kind: str
) -> None:
    checkpoint = load_checkpoint(folder_of(tmp_path, tiny("hubert", "base"), add(**shapes, out__weight=(2, 24))))
    trimmed = cut_view(checkpoint.view, Selection(axes={"encoder.layers.2/layer": ()}))
    kept_units, reason = checkpoint.extra.select_fitting(checkpoint.view, trimmed)
    assert set(kept_units) == {"out.weight"}
    assert len(reason) == 1
    assert reason[0].endswith(kind)
    assert not checkpoint.extra.select_fitting(checkpoint.view, cut_view(checkpoint.view, NARROW))[1]


@pytest.mark.parametrize(
    "shapes",
    [
        {"fc1__weight": (7, 24), "fc1__bias": (7,), "fc2__weight": (5, 7), "fc2__bias": (5,)},
        {"pool__query": (1, 7, 24), "out__0__weight": (7, 24), "out__3__weight": (5, 7)},
        {"rnn__weight_ih_l0": (28, 24), "rnn__weight_hh_l0": (28, 7), "out__weight": (3, 7)},
        {"classifier__dense__weight": (3, 24), "classifier__norm__weight": (3,), "classifier__norm__bias": (3,)},
        {"fc1__weight": (4, 24), "fc1__bias": (4,), "fc2__weight": (1, 4), "fc2__bias": (1,)},
        {"head__0__weight": (4, 24), "head__1__weight": (4,), "head__2__weight": (2, 4)},
        {"norm__weight": (4,), "norm__bias": (4,), "norm__running_mean": (4,), "norm__running_var": (4,)},
    ],
)
def test_a_classifier_with_widths_equal_to_the_number_of_layers_is_kept(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    checkpoint = load_checkpoint(folder_of(tmp_path, tiny("hubert", "base"), add(**shapes)))
    axes = dict(NARROW.axes) | {"encoder.layers.2/layer": ()}
    selection, reason = checkpoint.extra.select_fitting(
        checkpoint.view, cut_view(checkpoint.view, Selection(axes=axes))
    )
    assert (selection.keys(), reason) == (checkpoint.extra.tensors.keys(), ())


def test_a_second_copy_of_the_encoder_is_dropped(tmp_path: Path) -> None:
    def average(state: dict[str, Tensor]) -> None:
        state |= {f"ema.{name}": value.clone() for name, value in state.items()}

    source = tiny("hubert", "base")
    checkpoint = load_checkpoint(folder_of(tmp_path, source, average))
    assert same(checkpoint.model, source)
    kept_units, reason = checkpoint.extra.select_fitting(checkpoint.view, cut_view(checkpoint.view, NARROW))
    assert not kept_units
    assert len(reason) == 1
    assert reason[0].startswith("ema (")
    assert reason[0].endswith("is left out: it is another encoder, of the old shape")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_adapters_of_other_languages_are_copied_to_the_cut_model(tmp_path: Path, kind: str) -> None:
    source = build(tiny_config("wav2vec2", "large", adapter_attn_dim=4), "ForCTC")
    folder = folder_of(tmp_path / "a", source)
    generator = torch.Generator().manual_seed(1)
    adapters = {n: torch.randn(v.shape, generator=generator) for n, v in source._get_adapters().items()}
    adapters |= {"lm_head.weight": torch.randn(7, 24), "lm_head.bias": torch.randn(7)}
    path = folder / f"adapter.fra.{kind}"
    save_file(adapters, path) if kind == "safetensors" else torch.save(adapters, path)
    out = tmp_path / "out"
    out.mkdir()
    small = cut_view(load_view(folder), Selection(axes=dict(NARROW.axes) | {"encoder.layers.2/layer": ()}))
    write_model(out, small, source=folder)
    model: Any = transformers.AutoModelForCTC.from_pretrained(out)
    model.load_adapter("fra")
    for name, value in model._get_adapters().items():
        assert torch.equal(value, adapters[name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter.bad.safetensors", b"junk"),
        ("adapter.bad.safetensors", b""),
        ("adapter.bad.bin", b"\x80"),
        ("adapter.bad.bin", {"lm_head.bias": object}),
        ("adapter.bad.bin", None),
    ],
)
def test_an_unreadable_adapter_is_left_out_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: Any
) -> None:
    source = build(tiny_config("wav2vec2", "large", adapter_attn_dim=4), "ForCTC")
    folder = folder_of(tmp_path / "a", source)
    save_file(source._get_adapters(), folder / "adapter.fra.safetensors")
    if content is None:
        (folder / name).mkdir()
    elif isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        torch.save(content, folder / name)
    checkpoint = load_checkpoint(folder)
    assert len(checkpoint.notes) == (content is not None)
    assert all(name in note and note.endswith("It is left out") for note in checkpoint.notes)
    (tmp_path / "out").mkdir()
    caplog.clear()
    write_model(tmp_path / "out", cut_view(checkpoint.view, NARROW), source=folder)
    assert [path.name for path in (tmp_path / "out").glob("adapter.*")] == ["adapter.fra.safetensors"]
    assert [message for message in caplog.messages if message.startswith("1 adapters of languages go with")]
