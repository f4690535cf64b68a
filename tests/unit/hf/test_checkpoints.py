"""Published checkpoints: pickled, with folded weight norm, damaged, without head, with extra weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_toy import NARROW, Change, add, drop, folder_of, pickled, same, with_head_of
from safetensors.torch import load_file
from support import build, tiny, tiny_config
from torch import Tensor

from secateur.errors import ModelError
from secateur.hf.load import load_checkpoint
from secateur.hf.model_view import ModelView
from secateur.surgery import cut, load_model


@pytest.mark.parametrize(
    ("family", "ending", "lost"),
    [
        ("hubert", "ForCTC", "lm_head"),
        ("wav2vec2", "ForSequenceClassification", "classifier"),
        ("wavlm", "ForXVector", "tdnn.1"),
        ("unispeech-sat", "ForAudioFrameClassification", "classifier.bias"),
        ("parakeet_encoder", "ForCTC", "ctc_head"),
        ("parakeet_encoder", "ForRNNT", "joint"),
        ("parakeet_encoder", "ForTDT", "decoder.embedding"),
    ],
)
def test_a_head_with_missing_weights_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, ending: str, lost: str
) -> None:
    source = with_head_of(family, ending)
    folder = folder_of(tmp_path, source, drop(lost))
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.model) is type(tiny(family, "base"))
    assert same(checkpoint.model, ModelView.of(source).encoder)
    assert checkpoint.model.config.architectures == [type(checkpoint.model).__name__]
    assert any(lost in note and "new head" in note for note in checkpoint.notes)
    assert list(checkpoint.notes) == caplog.messages


def test_layer_weights_belong_to_a_head_with_a_weighted_layer_sum(tmp_path: Path) -> None:
    source = build(tiny_config("wavlm", "base", use_weighted_layer_sum=True), "ForSequenceClassification")
    assert load_checkpoint(folder_of(tmp_path, source)).notes == ()
    assert "layer_weights" in load_checkpoint(folder_of(tmp_path, source, drop("layer_weights"))).notes[0]


@pytest.mark.parametrize(
    ("family", "ending", "surplus", "field"),
    [
        ("wavlm", "ForSequenceClassification", {"layer_weights": (4,)}, "use_weighted_layer_sum"),
        ("wav2vec2-bert", "ForAudioFrameClassification", {"layer_weights": (4,)}, "use_weighted_layer_sum"),
        ("hubert", "ForSequenceClassification", {"projector__0__weight": (5, 24)}, ""),
        ("unispeech-sat", "ForXVector", {"tdnn__5__kernel__weight": (9, 9)}, "tdnn_dim"),
        ("wavlm", "ForXVector", {"feature_extractor__norm__weight": (9,)}, ""),
        ("parakeet_encoder", "ForRNNT", {"decoder__lstm__weight_ih_l1": (32, 8)}, "num_decoder_layers"),
        ("parakeet_encoder", "ForCTC", {"ctc_head__1__weight": (9, 9)}, ""),
    ],
)
def test_head_weights_missing_in_the_config_are_rejected(
    tmp_path: Path, family: str, ending: str, surplus: dict[str, tuple[int, ...]], field: str
) -> None:
    folder = folder_of(tmp_path, with_head_of(family, ending), add(**surplus))
    name = next(iter(surplus)).replace("__", r"\.")
    end = f"; see {field} in" if field else r"\.$"
    with pytest.raises(ModelError, match=f"the file has {name}, for which there is no place by the config{end}"):
        load_model(folder)


def test_layer_weights_of_another_class_are_extra_weights(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder_of(tmp_path, tiny("wavlm", "base", "ForCTC"), add(layer_weights=(4,))))
    assert set(checkpoint.extra.tensors) == {"layer_weights"}


def test_weights_of_the_speaker_verification_loss_are_optional(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tiny("wavlm", "base", "ForXVector"), drop("objective"))
    first, reloaded = load_model(folder), load_model(folder)
    assert type(first).__name__ == "WavLMForXVector"
    assert same(first, reloaded)


@pytest.mark.parametrize("format", ["torch", "old torch", "half", "old names", "module."])
def test_pickled_weights_are_read_with_a_note(tmp_path: Path, format: str, caplog: pytest.LogCaptureFixture) -> None:
    source = tiny("hubert", "base", "ForCTC")
    folder = folder_of(tmp_path, source)

    def change(state: dict[str, Any]) -> None:
        for name in list(state):
            value = state.pop(name)
            name = f"module.{name}" if format == "module." else name
            if format == "old names":
                name = name.replace("parametrizations.weight.original0", "weight_g")
                name = name.replace("parametrizations.weight.original1", "weight_v")
            state[name] = value.half() if format == "half" else value

    pickled(folder, change)
    if format == "old torch":
        state = torch.load(folder / "pytorch_model.bin")
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    model = load_model(folder)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    expected = {
        name: value.half().float() if format == "half" else value for name, value in source.state_dict().items()
    }
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert [message for message in caplog.messages if "read from pytorch_model.bin" in message]


def test_weights_in_several_files_are_read_from_their_index(tmp_path: Path) -> None:
    source = tiny("wavlm", "base")
    source.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert same(load_model(tmp_path), source)
    for path in tmp_path.glob("*.safetensors"):
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    (tmp_path / "model.safetensors.index.json").unlink()
    index["weight_map"] = {name: file.replace("safetensors", "bin") for name, file in index["weight_map"].items()}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same(load_model(tmp_path), source)
    next(tmp_path.glob("model-*.bin")).unlink()
    with pytest.raises(ModelError, match=r"not complete: pytorch_model\.bin\.index\.json names model-"):
        load_model(tmp_path)


def test_safetensors_take_precedence_over_pickled_weights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tiny("hubert", "base"))
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    assert load_checkpoint(folder).notes == ()


class Payload:
    """An object other than a tensor."""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": Payload()}, "would run code of the file"),
        ({"state_dict": {"a": torch.zeros(1)}}, "holds a dict under 'state_dict': expected tensors by name"),
        ([torch.zeros(1)], "holds a list: expected tensors by name"),
        (b"no pickle at all", "cannot be loaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
)
def test_a_pickle_with_other_objects_than_tensors_is_rejected(tmp_path: Path, content: Any, sentence: str) -> None:
    tiny_config("hubert", "base").save_pretrained(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=sentence):
        load_model(tmp_path)


@pytest.mark.parametrize("left", [0, 4, 100, 5000])
def test_a_truncated_file_is_rejected(tmp_path: Path, left: int) -> None:
    folder = folder_of(tmp_path, tiny("hubert", "base"))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:left])
    with pytest.raises(ModelError, match="they are damaged or cut short"):
        load_model(folder)


@pytest.mark.parametrize(("family", "size"), [("hubert", "base"), ("wavlm", "large")])
def test_a_folded_weight_norm_is_split_exactly(tmp_path: Path, family: str, size: str) -> None:
    source = build(tiny_config(family, size), dtype=torch.float64)
    folded = source.encoder.pos_conv_embed.conv.weight.detach().clone()
    folded[:, :, 2] = 0.0

    def fold(state: dict[str, Tensor]) -> None:
        drop("encoder.pos_conv_embed.conv.parametrizations")(state)
        state["encoder.pos_conv_embed.conv.weight"] = folded

    checkpoint = load_checkpoint(folder_of(tmp_path, source, fold), dtype=torch.float64)
    conv: Any = checkpoint.model.get_submodule("encoder.pos_conv_embed.conv")
    assert torch.allclose(conv.weight, folded, rtol=1e-15, atol=0.0)
    assert conv.parametrizations.weight.original0.shape == (1, 1, folded.shape[2])
    assert "split off again" in checkpoint.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folded_weight_norm_in_half_precision_is_split_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    source = tiny("hubert", "base")
    folded = (3 * source.encoder.pos_conv_embed.conv.weight.detach()).to(dtype)

    def fold(state: dict[str, Tensor]) -> None:
        drop("encoder.pos_conv_embed.conv.parametrizations")(state)
        state |= {name: value.to(dtype) for name, value in state.items()}
        state["encoder.pos_conv_embed.conv.weight"] = folded

    model: Any = load_model(folder_of(tmp_path, source, fold))
    assert torch.allclose(model.encoder.pos_conv_embed.conv.weight, folded.float(), rtol=1e-6, atol=0.0)


def test_nan_weights_are_named_when_loading(tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        state["wavlm.encoder.layers.1.feed_forward.output_dense.weight"][0, :3] = float("nan")
        state["wavlm.encoder.layer_norm.weight"][0] = float("inf")

    folder = folder_of(tmp_path, tiny("wavlm", "base", "ForCTC"), spoil)
    with pytest.raises(ModelError, match=r"1 of the 24 values of encoder\.layer_norm\.weight .*, and 1 more tensor"):
        load_model(folder)


def test_a_nan_head_is_rejected_if_needed_and_otherwise_left_out(tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        state["lm_head.bias"][2] = float("nan")

    folder = folder_of(tmp_path, tiny("hubert", "base", "ForCTC"), spoil)
    with pytest.raises(ModelError, match=r"1 of the 9 values of lm_head\.bias are NaN or infinite"):
        load_model(folder)
    checkpoint = load_checkpoint(folder).drop_damaged_head()
    assert type(checkpoint.model).__name__ == "HubertModel"
    assert "lm_head.bias" in checkpoint.notes[-1]


@pytest.mark.parametrize(
    ("family", "ending", "fields", "sentence"),
    [
        ("hubert", "ForCTC", {"vocab_size": 50}, r"lm_head\.weight is 9 x 24 .* 50 x 24 by the config; see vocab_size"),
        ("parakeet_encoder", "ForCTC", {"vocab_size": 50}, r"ctc_head\.weight is .* 50 x 24 x 1 .*; see vocab_size"),
        ("wavlm", "ForXVector", {"tdnn_kernel": [3, 3, 3, 1, 1]}, r"tdnn\.0\.kernel\.weight is .*; see tdnn_dim"),
        (
            "wav2vec2",
            "ForSequenceClassification",
            {"classifier_proj_size": 7},
            r"projector\.weight is 5 x 24 .* 7 x 24",
        ),
        ("wav2vec2", "ForSequenceClassification", {"id2label": {"0": "a"}}, r"classifier\.weight is 3 x 5 .* 1 x 5"),
        ("wavlm", "Model", {"intermediate_size": 20}, r"intermediate_dense\.weight is 10 x 24 .* and \d+ more"),
        ("hubert", "Model", {"num_hidden_layers": 2}, r"unexpected encoder\.layers\.2\.attention"),
        ("hubert", "Model", {"num_hidden_layers": 4}, r"missing encoder\.layers\.3\.attention"),
    ],
)
def test_a_config_of_other_sizes_than_the_weights_is_rejected_with_both_sizes(
    tmp_path: Path, family: str, ending: str, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        load_model(folder_of(tmp_path, with_head_of(family, ending), **fields))


def test_an_encoder_in_a_wrapper_is_found_and_two_encoders_are_rejected(tmp_path: Path) -> None:
    source = tiny("hubert", "base")

    def wrap(*prefixes: str) -> Change:
        def change(state: dict[str, Tensor]) -> None:
            own_values = dict(state)
            state.clear()
            for prefix in prefixes:
                state |= {prefix + name: value.clone() for name, value in own_values.items()}

        return change

    assert same(load_model(folder_of(tmp_path / "a", source, wrap("model.hubert."))), source)
    with pytest.raises(ModelError, match=r"several encoders, under '.*', '.*': expected one"):
        load_model(folder_of(tmp_path / "b", source, wrap("student.", "teacher.")))


def test_a_cut_model_without_head_weights_is_loaded_as_a_cut_encoder(tmp_path: Path) -> None:
    small: Any = cut(tiny("hubert", "base", "ForCTC"), NARROW)
    assert same(load_model(folder_of(tmp_path, small, drop("lm_head"))), small.hubert)
