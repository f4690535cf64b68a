"""Convolutions of few channels per group are right in bfloat16 on every processor."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from support import build, tiny_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from secateur.hf.declare import declare
from secateur.hf.load import load_model, with_head
from secateur.hf.model_view import ModelView
from secateur.hf.models import build_model
from secateur.inference import for_inference
from secateur.inference.linear import channels_last, convolution
from secateur.masking import attach, mask_values
from secateur.nn.narrow_convolution import guard_convolutions, is_narrow, narrow_convolution_error
from secateur.pretraining.wavlm_encoder import WavLMEncoder, WavLMShape
from secateur.structure import Selection
from secateur.surgery.comparison import run_model
from secateur.tasks.best_rq import BestRqSettings

pytestmark = pytest.mark.processor

#: Channels per group, groups and taps that oneDNN's AMX kernels get wrong, and neighbors that they get right.
SHAPES = [(12, 4, 64), (8, 1, 8), (2, 16, 32), (14, 2, 16), (4, 3, 24), (3, 4, 64), (16, 4, 64), (48, 2, 128)]
LIMIT = 0.01


def error(exact: Tensor, rounded: Tensor) -> float:
    return float(((rounded.float() - exact).norm() / exact.norm()).detach())


def guarded(width: int, groups: int, taps: int) -> nn.Conv1d:
    torch.manual_seed(0)
    channels = width * groups
    conv = weight_norm(nn.Conv1d(channels, channels, taps, padding=taps // 2, groups=groups), dim=2)
    guard_convolutions(conv)
    return conv


@pytest.mark.parametrize(("width", "groups", "taps"), SHAPES)
def test_a_guarded_convolution_is_right_in_bfloat16_under_autocast_and_after_copying(
    width: int, groups: int, taps: int
) -> None:
    conv, values = guarded(width, groups, taps), torch.randn(2, width * groups, 50)
    exact = conv(values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = conv(values)
    assert under_autocast.dtype == torch.bfloat16
    assert error(exact, under_autocast) < LIMIT
    copied = copy.deepcopy(conv).bfloat16()
    rounded = copied(values.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert error(exact, rounded) < LIMIT
    assert conv.parametrizations.weight.original0.dtype == torch.float32


def test_gradients_pass_through_a_guarded_convolution_in_the_dtype_of_the_weights() -> None:
    conv = guarded(12, 4, 64)
    conv(torch.randn(1, 48, 40)).sum().backward()
    exact = conv.parametrizations.weight.original1.grad.clone()
    conv.zero_grad()
    conv.bfloat16()(torch.randn(1, 48, 40).bfloat16()).sum().backward()
    rounded = conv.parametrizations.weight.original1.grad
    assert rounded.dtype == torch.bfloat16
    assert rounded.shape == exact.shape


def test_the_guard_survives_pickling_and_leaves_float32_and_float64_as_they_were() -> None:
    conv, values = nn.Conv1d(24, 24, 16, padding=8, groups=2), torch.randn(1, 24, 30)
    exact = conv(values)
    guard_convolutions(conv)
    assert torch.equal(conv(values), exact)
    assert conv.double()(values.double()).dtype == torch.float64
    repeated = pickle.loads(pickle.dumps(conv.float()))
    assert error(exact, repeated.bfloat16()(values.bfloat16())) < LIMIT


def test_wide_depthwise_and_short_convolutions_keep_their_own_kernels() -> None:
    assert not is_narrow(in_channels=768, groups=16, taps=128)
    assert not is_narrow(in_channels=768, groups=768, taps=31)
    assert not is_narrow(in_channels=14, groups=1, taps=3)
    assert is_narrow(in_channels=192, groups=16, taps=64)
    conv = nn.Conv1d(768, 768, 3, groups=16)
    guard_convolutions(conv)
    assert "_conv_forward" not in vars(conv)


@pytest.mark.parametrize(("width", "groups", "taps"), [(12, 4, 64), (8, 1, 8), (48, 2, 128)])
def test_the_convolution_for_inference_is_right_in_bfloat16(width: int, groups: int, taps: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(width * groups, width * groups, taps, padding=taps // 2, groups=groups).bfloat16()
    values = torch.randn(1, 20, width * groups).bfloat16()
    exact = copy.deepcopy(conv).float()(values.float().transpose(1, 2)).transpose(1, 2)
    with torch.no_grad():
        rounded = convolution(
            values, channels_last(conv.weight), conv.bias, padding=taps // 2, groups=groups, activation="none"
        )
    assert rounded.dtype == torch.bfloat16
    assert error(exact, rounded) < LIMIT


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "data2vec-audio"])
def test_a_model_with_narrow_positional_groups_is_right_in_bfloat16_in_every_form(family: str) -> None:
    fields = {"num_conv_pos_embeddings": 32, "conv_pos_kernel_size": 32, "num_conv_pos_embedding_groups": 4}
    torch.manual_seed(0)
    config = tiny_config(family, "base", hidden_size=48, **fields)
    model, structure = build_model(config).eval(), declare(config)
    model.load_state_dict(build(config).state_dict())
    audio = torch.randn(1, 8000)
    with torch.no_grad():
        exact = run_model(model, audio).hidden_states[-1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = run_model(model, audio).hidden_states[-1]
        fast = run_model(for_inference(model).bfloat16(), audio.bfloat16()).hidden_states[-1]
        masking = attach(model.bfloat16(), structure)
        masking.set(mask_values(structure, Selection(axes={}), torch.bfloat16))
        masked = run_model(model, audio.bfloat16()).hidden_states[-1]
        masking.remove()
        rounded = run_model(model, audio.bfloat16()).hidden_states[-1]
    assert max(error(exact, candidate) for candidate in (under_autocast, fast, masked, rounded)) < 0.03


def test_a_model_that_is_loaded_or_given_a_head_is_guarded(tmp_path: Path) -> None:
    config = tiny_config("hubert", "base", hidden_size=48, num_conv_pos_embeddings=32, num_attention_heads=4)
    build(config).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    for model in (loaded, with_head(ModelView(loaded), "ForCTC", {"vocab_size": 5}, seed=0).model):
        conv = model.base_model.encoder.pos_conv_embed.conv
        values = torch.randn(1, 48, 40)
        exact = conv(values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert error(exact, conv(values)) < LIMIT


def test_an_encoder_that_is_pretrained_in_bfloat16_learns_from_right_positions() -> None:
    channels = (8,) * 7
    shape = WavLMShape(conv_channels=channels, width=48, layers=1, heads=2, feed_forward=8, position_groups=4)
    conv = WavLMEncoder(shape, BestRqSettings(entries=4)).encoder.encoder.pos_conv_embed.conv
    values = torch.randn(1, 48, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = conv(values)
    assert error(conv(values), rounded) < LIMIT


def test_the_error_that_doctor_reports_is_rounding_or_garbage_and_nothing_between() -> None:
    result = narrow_convolution_error()
    assert result < 0.01 or result > 0.5
