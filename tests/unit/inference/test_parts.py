"""Inference-only modules equal the stock modules, at widths and lengths that use the fast code."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import HubertConfig
from transformers.models.hubert.modeling_hubert import HubertFeatureEncoder, HubertPositionalConvEmbedding

from secateur.inference import front_end, position_bias
from secateur.inference.front_end import FrontEnd
from secateur.inference.linear import CachedWeight
from secateur.inference.position_bias import InferencePositionalConv
from secateur.nn.positional_conv import CutPositionalConv
from secateur.structure.encoder_shape import PositionalConvShape

pytestmark = pytest.mark.processor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def conv(dtype: torch.dtype, taps: int = 64, groups: int = 4) -> Any:
    """Return a stock positional convolution."""
    torch.manual_seed(0)
    config = HubertConfig(hidden_size=32, num_conv_pos_embeddings=taps, num_conv_pos_embedding_groups=groups)
    stock = HubertPositionalConvEmbedding(config).to(dtype)
    torch.nn.init.normal_(stock.conv.bias)
    return stock


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("taps", [32, 33, 64])
@pytest.mark.parametrize("time", [1, 31, 32, 64, 65, 66, 130, 201])
def test_positional_convolution_equals_the_stock_one_at_every_block_border(
    time: int, taps: int, dtype: torch.dtype
) -> None:
    stock = conv(dtype, taps)
    values = torch.randn(2, time, 32, dtype=dtype)
    torch.testing.assert_close(InferencePositionalConv(stock)(values), stock(values), rtol=0, atol=TOLERANCE[dtype])


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("time", [20, 130])
@pytest.mark.parametrize("taps", [8, 64])
def test_positional_convolution_with_fewer_groups_equals_the_cut_one(taps: int, time: int, dtype: torch.dtype) -> None:
    shape = PositionalConvShape(original_groups=4, groups=(0, 3), scales=(0.5, 2.0))
    small = CutPositionalConv(conv(dtype, taps), shape).to(dtype)
    values = torch.randn(2, time, 32, dtype=dtype)
    torch.testing.assert_close(InferencePositionalConv(small)(values), small(values), rtol=0, atol=TOLERANCE[dtype])


@torch.no_grad()
def test_only_long_inputs_are_convolved_by_fft_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fft_taps: list[int] = []
    convolve_by_fft = InferencePositionalConv._convolve_by_fft
    monkeypatch.setattr(
        InferencePositionalConv,
        "_convolve_by_fft",
        lambda self, x: fft_taps.append(self.taps) or convolve_by_fft(self, x),
    )
    for taps, time in ((64, 32), (64, 31), (position_bias._MIN_FFT_TAPS - 1, 200)):
        InferencePositionalConv(conv(torch.float32, taps))(torch.randn(1, time, 32))
    assert fft_taps == [64]


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("rows", [7, 2048])
def test_wide_convolutions_are_computed_by_matrix_products(
    norm: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "BLOCK_ROWS", rows)
    torch.manual_seed(0)
    wide = front_end._MIN_MATMUL_CHANNELS
    config: Any = HubertConfig(
        conv_dim=(wide, wide, 24), conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), feat_extract_norm=norm, conv_bias=True
    )
    stock = HubertFeatureEncoder(config).requires_grad_(False)
    values = torch.randn(2, 700)
    torch.testing.assert_close(FrontEnd(stock)(values), stock(values), rtol=0, atol=1e-4)


@torch.no_grad()
def test_cached_weights_follow_a_moved_module_and_are_not_copied() -> None:
    fast = InferencePositionalConv(conv(torch.float64))
    values = torch.randn(1, 100, 32, dtype=torch.float64)
    initial_output = fast(values)
    other_value = copy.deepcopy(fast)
    assert other_value._spectra._converted is None
    assert torch.equal(other_value(values), initial_output)
    torch.testing.assert_close(fast.float()(values.float()).double(), initial_output, rtol=0, atol=1e-5)
    with torch.inference_mode():
        created = CachedWeight(torch.clone)
        weight = torch.ones(2)
        assert created(weight) is created(weight)
        assert not created(weight).is_inference()
    assert created(torch.ones(2)) is not created(weight)
