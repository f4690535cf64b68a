"""Loading by hub id with an unreachable hub, and loading of folders with invalid files."""

from __future__ import annotations

import io
import json
import random
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_toy import drop, folder_of, same, with_head_of
from support import tiny, tiny_config

from secateur.errors import ModelError
from secateur.hf import hub_files, load
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.hf.weight_files import read_tensors


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record requested host names and hub models; no host name resolves and no model is cached."""
    requests: list[str] = []

    def resolve(host: str, port: Any) -> None:
        requests.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    def fetch(model: str) -> None:
        requests.append(model)
        raise OSError("no such model")

    monkeypatch.setattr(hub_files.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(hub_files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(load.AutoConfig, "from_pretrained", fetch)
    monkeypatch.setattr(hub_files, "getproxies", dict)
    monkeypatch.setattr(hub_files, "is_offline_mode", lambda: False)
    return requests


def test_a_hub_id_is_rejected_without_retries_when_the_network_is_down(tried: list[str]) -> None:
    with pytest.raises(ModelError, match=r"'no/such' cannot be used: there is no such folder .* does not resolve"):
        load.load_config("no/such")
    assert "no/such" not in tried
    assert len(tried) == 2  # a name server that stumbles once is asked again


def test_the_hub_library_is_called_if_the_host_name_resolves_at_the_second_attempt(
    tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = hub_files.socket.getaddrinfo
    monkeypatch.setattr(hub_files.socket, "getaddrinfo", lambda *_: original(*_) if not tried else [])
    with pytest.raises(ModelError, match="no such model"):
        load.load_config("no/such")
    assert tried[-1] == "no/such"


@pytest.mark.parametrize("how", ["proxy", "offline", "cached"])
def test_proxy_offline_mode_and_cache_skip_the_resolution_of_the_host_name(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    name, value = {
        "proxy": ("getproxies", lambda: {"https": "http://proxy:3128"}),
        "offline": ("is_offline_mode", lambda: True),
        "cached": ("try_to_load_from_cache", lambda *_: "/cache/config.json"),
    }[how]
    monkeypatch.setattr(hub_files, name, value)
    with pytest.raises(ModelError, match="no such model"):
        load.load_config("no/such")
    assert tried == ["no/such"]


def test_a_head_missing_in_a_family_is_rejected_with_the_families_that_have_it() -> None:
    with pytest.raises(ModelError, match=r"no ForRNNT of wavlm models; .*; there is of parakeet_encoder, nemotron_asr"):
        load.with_head(ModelView(tiny("wavlm", "base")), "ForRNNT", {}, seed=0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"architectures": [3]}, r"architectures: got \[3\], expected a list with the name of a class"),
        ({"architectures": "HubertModel"}, r"architectures: got 'HubertModel', expected a list"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            r"quantized \(bitsandbytes\), by",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"is quantized \(gptq\), by the quantization_config",
        ),
        ({"quantization_config": {}}, "is quantized, by the quantization_config in its config: expected"),
        ({"hidden_act": "gleu"}, r"built: hidden_act: got 'gleu', expected an activation .*\. Did you mean 'gelu"),
        ({"feat_extract_activation": "?"}, r"built: feat_extract_activation: got '\?', expected .* transformers\.$"),
        ({"num_attention_heads": 5}, r"can be built: .*num_heads.*[^.]\.$"),
    ],
)
def test_an_unusable_config_is_rejected_with_a_message(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        load.load_model(folder_of(tmp_path, tiny("hubert", "base"), **fields))


@pytest.mark.parametrize("family", ["wavlm", "parakeet_encoder"])
def test_an_unknown_activation_is_rejected(family: str) -> None:
    with pytest.raises(ModelError, match="can be built: hidden_act: got 'foo', expected an activation of transformers"):
        declare(tiny_config(family, "base", hidden_act="foo"))


@pytest.mark.parametrize("stride", [0, -2])
def test_a_stride_below_one_is_rejected(stride: int) -> None:
    with pytest.raises(ModelError, match=f"front end with a stride of {stride}; each is at least 1"):
        declare(tiny_config("hubert", "base", conv_stride=[10, stride, 4]))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("family", ["wav2vec2", "parakeet_encoder"])
def test_attention_that_needs_another_package_falls_back_to_torch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, key: str
) -> None:
    source = with_head_of(family, "ForCTC")
    folder_of(tmp_path, source, **{key: "flash_attention_2"})
    if family == "parakeet_encoder":
        fields = json.loads((tmp_path / "config.json").read_text())
        fields["encoder_config"][key] = "flash_attention_3"
        (tmp_path / "config.json").write_text(json.dumps(fields))
    assert same(load.load_model(tmp_path), source)
    assert any("asks for flash_attention_2: attention is computed by torch" in message for message in caplog.messages)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_weights_are_read_and_checked_for_nan(tmp_path: Path, dtype: torch.dtype) -> None:
    source = tiny("hubert", "base", "ForCTC")
    name = "hubert.encoder.layers.0.attention.k_proj.weight"

    def change(state: dict[str, torch.Tensor]) -> None:
        state[name] = state[name].to(dtype)
        state["beside.weight"] = torch.ones(2, 2).to(dtype)

    model = load.load_model(folder_of(tmp_path, source, change))
    assert torch.equal(model.state_dict()[name], source.state_dict()[name].to(dtype).float())

    def spoil(state: dict[str, torch.Tensor]) -> None:
        change(state)
        state[name] = (state[name].float() * float("nan")).to(dtype)

    with pytest.raises(
        ModelError, match=r"576 of the 576 values of encoder\.layers\.0\.attention\.k_proj\.weight are NaN"
    ):
        load.load_model(folder_of(tmp_path, source, spoil))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["hubert.encoder.layers.0.attention.k_proj.weight", "lm_head.weight"])
def test_non_floating_point_weights_are_rejected(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state[name] = state[name].to(dtype)

    with pytest.raises(ModelError, match=rf"{name} is {str(dtype)[6:]} in the file, expected float\.$"):
        load.load_model(folder_of(tmp_path, tiny("hubert", "base", "ForCTC"), change))


@pytest.mark.parametrize("content", ["[]", "{", '{"max_new_tokens": "a"}'])
def test_an_invalid_generation_config_of_a_generating_model_is_rejected(tmp_path: Path, content: str) -> None:
    folder = folder_of(tmp_path / "a", with_head_of("parakeet_encoder", "ForRNNT"))
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json' cannot be used: .*[^.]\.$"):
        load.load_model(folder)
    (folder_of(tmp_path / "b", tiny("hubert", "base")) / "generation_config.json").write_text(content)
    load.load_model(tmp_path / "b")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_corrupted_bytes_is_rejected_with_a_message_or_read(tmp_path: Path, zipped: bool) -> None:
    path, state = tmp_path / "pytorch_model.bin", {"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content, draw, num_refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        corrupted = bytearray(content)
        corrupted[draw.randrange(len(corrupted))] = draw.randrange(256)
        path.write_bytes(corrupted)
        try:
            read_tensors(path)
        except ModelError:
            num_refused += 1
    assert num_refused


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())


def _program(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


@pytest.mark.filterwarnings("ignore")  # what is old warns, to write and to read
@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (_tar, r"this is the format of PyTorch before 0\.1\.10, a tar archive: save the weights anew by"),
        (_program, r"this is a program \(TorchScript\): save the weights anew by `save_pretrained`"),
        (lambda path: path.write_bytes(b""), r"the file is empty\.$"),
        (lambda path: path.write_bytes(b"\x80\x02"), r"damaged or cut short \(\w+.*\)\.$"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), r"this is no file of PyTorch\.$"),
    ],
)
def test_a_pickle_of_an_unsupported_format_is_rejected_by_the_name_of_the_format(
    tmp_path: Path, write: Callable[[Path], object], sentence: str
) -> None:
    write(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=sentence):
        read_tensors(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.eye(3, device="meta")])
def test_a_pickle_of_sparse_or_meta_tensors_is_rejected(tmp_path: Path, value: torch.Tensor) -> None:
    torch.save({"a.weight": value}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds 'a\.weight' without plain values: expected dense tensors"):
        read_tensors(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("weight", [torch.ones(()), torch.ones(3, 3), torch.ones(24, 6, 8, dtype=torch.int8)])
def test_an_invalid_folded_weight_is_rejected(tmp_path: Path, weight: torch.Tensor) -> None:
    def fold(state: dict[str, torch.Tensor]) -> None:
        drop("encoder.pos_conv_embed.conv.parametrizations")(state)
        state["encoder.pos_conv_embed.conv.weight"] = weight

    with pytest.raises(ModelError, match=r"do not fit its config: .*encoder\.pos_conv_embed\.conv\."):
        load.load_model(folder_of(tmp_path, tiny("hubert", "base"), fold))
