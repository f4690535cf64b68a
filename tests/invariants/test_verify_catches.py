"""`verify` passes a right cut and fails each of the seeded faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import MODELS, POSITIONS, RAGGED, make_selection, tiny, tiny_structure
from torch import nn

import wav2vec2_axes as names
from secateur.nn.norm import SupportLayerNorm
from secateur.structure import Selection, normalize
from secateur.structure.axis import ranks
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
    """That selection, less the axis that a family does not have; of a Conformer one like it."""
    if family in POSITIONS:
        return make_selection(tiny_structure(family, "base"), RAGGED)
    if GROUPS in tiny_structure(family, "base").axes:
        return SELECTION
    baseline_record = [{k: v for k, v in part.items() if k != GROUPS} for part in (SELECTION.axes, SELECTION.scales)]
    return Selection(axes=baseline_record[0], scales=baseline_record[1])


def fault(model: Any) -> Verification:
    return verify(model, tiny("hubert", "large"), SELECTION)


def on_every_processor(model: tuple[str, str]) -> Any:
    """Run with a model under several instruction sets too, where it stands for its kind."""
    kinds = (("hubert", "base"), ("wavlm", "large"), ("wav2vec2-conformer", "base"))
    return pytest.param(*model, marks=pytest.mark.processor if model in kinds else ())


@pytest.mark.parametrize(("family", "size"), [on_every_processor(model) for model in MODELS])
def test_verify_passes_a_right_cut(family: str, size: str) -> None:
    dense, selection = tiny(family, size), selection_for(family)
    result = verify(cut(dense, selection), dense, selection)
    assert result.holds, failed(result)
    assert len(result.differences) == 5  # four hidden states and the output


def sharp() -> Any:
    """A float32 model whose attention is so sharp that it multiplies rounding ten thousand times."""
    model = tiny("hubert", "large").float()
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.attention.q_proj.weight.mul_(60)
            layer.attention.k_proj.weight.mul_(60)
    return model


def test_a_model_that_multiplies_rounding_is_proved_in_float64() -> None:
    dense = sharp()
    result = verify(cut(dense, SELECTION), dense, SELECTION)
    assert max(result.differences) > 1e-4
    equal = next(check for check in result.checks if check.name == EQUAL)
    assert equal.holds, equal.detail
    assert "in float64" in equal.detail


def test_float64_does_not_excuse_a_wrong_weight() -> None:
    dense = sharp()
    model: Any = cut(dense, SELECTION)
    with torch.no_grad():
        model.encoder.layers[0].feed_forward.output_dense.weight[0, 0] += 1e-3
    assert EQUAL in failed(verify(model, dense, SELECTION))


def test_verify_catches_a_wrong_kept_index() -> None:
    corrupted = Selection(
        axes=dict(SELECTION.axes) | {names.feed_forward_units(0): (0, 3, 5, 8)}, scales=SELECTION.scales
    )
    assert failed(fault(cut(tiny("hubert", "large"), corrupted))) == {EQUAL}


def test_verify_catches_a_forgotten_output_bias_of_a_dead_block() -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    with torch.no_grad():
        model.encoder.layers[1].attention.out_proj.bias.zero_()
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_stale_weight_norm() -> None:
    model, dense = cut(tiny("hubert", "large"), SELECTION), tiny("hubert", "large")
    actual, reference = (m.encoder.pos_conv_embed.conv.parametrizations.weight.original0 for m in (model, dense))
    with torch.no_grad():
        actual.copy_(reference)  # the direction has lost groups, the magnitude is that of all
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
    removed = torch.cat([torch.zeros(6), dense.encoder.pos_conv_embed.conv.bias.detach()[6:18], torch.zeros(6)])
    block = model.encoder.pos_conv_embed
    right = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden: right(hidden) + nn.functional.gelu(removed).to(hidden.dtype))
    assert failed(fault(model)) == {EQUAL}


def test_verify_catches_a_norm_over_all_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut(tiny("hubert", "large"), SELECTION)
    monkeypatch.setattr(SupportLayerNorm, "forward", nn.LayerNorm.forward)
    assert failed(fault(model)) == {EQUAL}


QUERY = "encoder.layers.0.attention.q_proj"
RANKS = Selection(axes={ranks(QUERY): (0, 3, 5)}, scales={ranks(QUERY): (0.5, 1.0, 2.0)})


def test_verify_catches_a_wrong_rank_and_a_forgotten_scale_of_one() -> None:
    dense = tiny("hubert", "low_rank")
    assert not failed(verify(cut(dense, RANKS), dense, RANKS))
    corrupted = Selection(axes={ranks(QUERY): (0, 4, 5)}, scales=RANKS.scales)
    assert failed(verify(cut(dense, corrupted), dense, RANKS)) == {EQUAL}
    assert failed(verify(cut(dense, Selection(axes=RANKS.axes)), dense, RANKS)) == {EQUAL}


def test_verify_catches_ranks_that_are_paired_wrongly() -> None:
    dense = tiny("hubert", "low_rank")
    model = cut(dense, RANKS)
    with torch.no_grad():
        model.get_submodule(QUERY).inner.weight.copy_(model.get_submodule(QUERY).inner.weight.flip(0))
    assert failed(verify(model, dense, RANKS)) == {EQUAL}


def test_verify_catches_a_missing_parameter_count() -> None:
    closed = normalize(tiny_structure("hubert", "large"), SELECTION).selection
    other_value = Selection(axes=dict(closed.axes) | {names.feed_forward_units(2): (0, 1)}, scales=closed.scales)
    result = fault(cut(tiny("hubert", "large"), other_value))
    assert "parameters are those of the selection" in failed(result)


LAYER = "encoder.layers.0"
CONFORMER = Selection(
    axes={
        f"{LAYER}.conv_module/channels": (0, 3, 4, 11, 17),
        f"{LAYER}.self_attn/head1.qk": (0, 2, 5),
        f"{LAYER}.self_attn/head2.qk": (1, 3, 4),
    },
    scales={f"{LAYER}.conv_module/channels": (0.5, 1.5, 1.0, 2.0, 0.75)},
)


def conformer_fault(family: str, size: str, spoil: Callable[[Any, Any], None]) -> set[str]:
    """Lines that fail for a cut Conformer of which somebody has spoilt the first layer, given the dense one's."""
    dense = tiny(family, size)
    model = cut(dense, CONFORMER)
    assert verify(model, dense, CONFORMER).holds
    with torch.no_grad():
        spoil(model.encoder.layers[0], dense.encoder.layers[0])
    return failed(verify(model, dense, CONFORMER))


def pair_with_themselves(layer: Any, dense: Any) -> None:
    """GLU values as gates, too: rows [i, i] in place of [i, i + C]."""
    weight = layer.conv_module.pointwise_conv1.weight
    weight[5:] = weight[:5]


def take_first_statistics(layer: Any, dense: Any) -> None:
    """The running mean of the first channels, whichever stay."""
    layer.conv_module.batch_norm.running_mean.copy_(dense.conv_module.batch_norm.running_mean[:5])


def take_first_biases(layer: Any, dense: Any) -> None:
    """The queries' bias of the first dimensions, whichever stay."""
    layer.self_attn.pos_bias_v.copy_(dense.self_attn.pos_bias_v.flatten()[: len(layer.self_attn.pos_bias_v)])


def read_first_columns(layer: Any, dense: Any) -> None:
    """The first columns of the shared table, whichever dimensions a head has."""
    layer.self_attn.query_key = tuple(tuple(range(len(num_kept))) for num_kept in layer.self_attn.query_key)


def scale_by_what_is_left(layer: Any, dense: Any) -> None:
    """The softmax scale of a narrower head."""
    layer.self_attn.scaling = 3**-0.5


@pytest.mark.parametrize(
    ("family", "size", "spoil"),
    [
        ("wav2vec2-conformer", "base", pair_with_themselves),
        ("wav2vec2-conformer", "base", take_first_statistics),
        ("wav2vec2-conformer", "base", take_first_biases),
        ("wav2vec2-bert", "base", read_first_columns),
        ("wav2vec2-bert", "rotary", scale_by_what_is_left),
    ],
)
def test_verify_catches_a_fault_in_a_conformer_layer(family: str, size: str, spoil: Callable[[Any, Any], None]) -> None:
    assert conformer_fault(family, size, spoil) == {EQUAL}


def test_verify_catches_a_conformers_norm_over_all_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = tiny("wav2vec2-bert", "base")
    model = cut(dense, CONFORMER)
    monkeypatch.setattr(SupportLayerNorm, "forward", nn.LayerNorm.forward)
    assert failed(verify(model, dense, CONFORMER)) == {EQUAL}
