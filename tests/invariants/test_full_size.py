"""Masked equals shrunk at full size, random weights, float32; Conformers at full width, float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import POSITIONS, TOLERANCE, Plan, audio, build, difference, make_selection, outputs
from transformers import HubertConfig, WavLMConfig

import wav2vec2_axes as names
from secateur.hf.configs import stock_config
from secateur.hf.declare import declare
from secateur.masking import attach, mask_values
from secateur.structure import Selection, normalize
from secateur.surgery import cut

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}


def ragged(structure: Any, seed: int) -> Selection:
    """Every third unit or so of everything, dead heads and blocks, scales near one."""
    generator = torch.Generator().manual_seed(seed)
    axes: dict[str, tuple[int, ...]] = {}
    scales: dict[str, tuple[float, ...]] = {}
    for name, axis in structure.axes.items():
        if axis.kind in ("channels", "groups", "qk", "vo", "units"):
            share = float(torch.rand((), generator=generator))
            chosen_units = torch.rand(axis.size, generator=generator) < (0.0 if share < 0.1 else share)
            axes[name] = tuple(
                unit for unit, kept_units in zip(axis.units, chosen_units.tolist(), strict=True) if kept_units
            )
            scales[name] = tuple((0.6 + 0.8 * torch.rand(len(axes[name]), generator=generator)).tolist())
    axes[names.attention_block(3)] = ()
    axes[names.feed_forward_block(5)] = ()
    axes[names.heads(7)] = ()
    return Selection(axes=axes, scales=scales)


@pytest.mark.slow
@pytest.mark.parametrize("config", [WavLMConfig(), HubertConfig(**LARGE)], ids=["wavlm-base", "hubert-large"])
def test_masked_equals_shrunk_at_full_size(config: Any) -> None:
    structure = declare(config)
    dense = build(config, seed=1)
    closed = normalize(structure, ragged(structure, 2)).selection
    small = cut(dense, closed)
    masking = attach(dense, structure)
    masking.set(mask_values(structure, closed, torch.float32))
    for lengths in ((16000,), (12000, 5000)):
        for a, b in zip(outputs(dense, *audio(lengths)), outputs(small, *audio(lengths)), strict=True):
            assert difference(a, b) <= TOLERANCE[torch.float32]


WIDE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
CONFORMERS = [(family, kind) for family, sizes in POSITIONS.items() for kind in sizes.values()]


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "kind"), CONFORMERS)
def test_masked_equals_shrunk_in_conformers_of_full_width(family: str, kind: str | None, implementation: str) -> None:
    config = stock_config(family, WIDE | {"position_embeddings_type": kind, "attn_implementation": implementation})
    structure, dense = declare(config), build(config, dtype=torch.float64, seed=1)
    plan = Plan(seed=2, channels=("some",) * 7, attention=("ragged", "narrow"), feed_forward=("units",) * 2, trimmed=0,
                scales=True)  # fmt: skip
    closed = normalize(structure, make_selection(structure, plan)).selection
    small = cut(dense, closed)
    masking = attach(dense, structure)
    for lengths in ((16000,), (9000, 4000)):
        speech = audio(lengths, torch.float64)
        masking.set(mask_values(structure, closed, torch.float64))
        masked = outputs(dense, *speech)
        masking.set(None)
        for a, b in zip(masked, outputs(small, *speech), strict=True):
            assert difference(a, b) <= TOLERANCE[torch.float64]
