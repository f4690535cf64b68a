"""`verify` passes a right cut and fails each of the seeded faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import MODELS, tiny, tiny_structure
from torch import nn

from secateur.modules.norm import SupportLayerNorm
from secateur.structure import Selection, close
from secateur.structure import wav2vec2 as names
from secateur.surgery import cut
from secateur.surgery.verify import Verification, verify

GROUPS = names.positional_groups()
SELECTION = Selection(
    axes={
        GROUPS: (0, 3),
        names.channels(0): (0, 2, 3),
        names.channels(2): (1, 2, 6),
        names.value_output(0, 1): (),
        names.query_key(0, 2): (1, 4),
        names.heads(1): (),
        names.attention_block(2): (),
        names.feed_forward_units(0): (0, 3, 4, 8),
        names.feed_forward_units(1): (),
    },
    scales={
        GROUPS: (0.5, 1.25),
        names.channels(2): (0.5, 1.5, 0.75),
        names.feed_forward_units(0): (0.5, 1.0, 2.0, 1.5),
    },
)
EQUAL = "cut model equals masked model"


def failed(result: Verification) -> set[str]:
    return {check.name for check in result.checks if not check.holds}


def selection_for(family: str) -> Selection:
    """That selection, less the axis that a family does not have."""
    if GROUPS in tiny_structure(family, "base").axes:
        return SELECTION
    without = [{k: v for k, v in part.items() if k != GROUPS} for part in (SELECTION.axes, SELECTION.scales)]
    return Selection(axes=without[0], scales=without[1])


def fault(model: Any) -> Verification:
    return verify(model, tiny("hubert", "large"), SELECTION)


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_verify_passes_a_right_cut(family: str, size: str) -> None:
    dense, selection = tiny(family, size), selection_for(family)
    result = verify(cut(dense, selection), dense, selection)
    assert result.holds, failed(result)
    assert len(result.differences) == 5  # four hidden states and the output


def test_verify_catches_a_wrong_kept_index() -> None:
    wrong = Selection(axes=dict(SELECTION.axes) | {names.feed_forward_units(0): (0, 3, 5, 8)}, scales=SELECTION.scales)
    assert failed(fault(cut(tiny("hubert", "large"), wrong))) == {EQUAL}


def test_verify_catches_a_forgotten_output_bias_of_a_dead_block() -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    with torch.no_grad():
        model.encoder.layers[1].attention.out_proj.bias.zero_()
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_stale_weight_norm() -> None:
    model, dense = cut(tiny("hubert", "large"), SELECTION), tiny("hubert", "large")
    ours, theirs = (m.encoder.pos_conv_embed.conv.parametrizations.weight.original0 for m in (model, dense))
    with torch.no_grad():
        ours.copy_(theirs)  # the direction has lost groups, the magnitude is that of all
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_forgotten_scale_of_a_positional_group() -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    model.encoder.pos_conv_embed.shape = replace(model.encoder.pos_conv_embed.shape, scales=(1.0, 1.25))
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_positional_groups_in_each_others_places() -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    model.encoder.pos_conv_embed.shape = replace(model.encoder.pos_conv_embed.shape, groups=(0, 2))
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_what_the_bias_of_a_removed_positional_group_leaves_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, dense = cut(tiny("hubert", "large"), SELECTION), tiny("hubert", "large")
    gone = torch.cat([torch.zeros(6), dense.encoder.pos_conv_embed.conv.bias.detach()[6:18], torch.zeros(6)])
    block = model.encoder.pos_conv_embed
    right = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden: right(hidden) + nn.functional.gelu(gone).to(hidden.dtype))
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_norm_over_all_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    monkeypatch.setattr(SupportLayerNorm, "forward", nn.LayerNorm.forward)
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_missing_parameter_count() -> None:
    closed = close(tiny_structure("hubert", "large"), SELECTION).selection
    other = Selection(axes=dict(closed.axes) | {names.feed_forward_units(2): (0, 1)}, scales=closed.scales)
    result = fault(cut(tiny("hubert", "large"), other))
    assert "parameters are those of the selection" in failed(result)
