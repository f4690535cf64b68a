"""Where masked and cut models of other tools differ; each case is one that was seen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import HEAD_DIM, TOLERANCE, audio, build, difference, outputs, tiny, tiny_config, tiny_structure
from torch import nn

import wav2vec2_axes as names
from secateur.masking import attach, mask_values
from secateur.nn.norm import SupportLayerNorm
from secateur.structure import Selection, normalize
from secateur.surgery import cut

TIGHT = TOLERANCE[torch.float64]


def double(family: str = "hubert", size: str = "base") -> Any:
    return tiny(family, size, dtype=torch.float64)


def masked_outputs(family: str, size: str, selection: Selection) -> list[torch.Tensor]:
    structure = tiny_structure(family, size)
    model = copy.deepcopy(double(family, size))
    masking = attach(model, structure)
    masking.set(mask_values(structure, normalize(structure, selection).selection))
    return outputs(model, *audio((2400,), torch.float64))


@pytest.mark.parametrize("size", ["base", "large"])
def test_a_norm_behind_a_pruned_channel_sees_kept_channels_only(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = Selection(axes={names.channels(2): (0, 2, 3, 6)})
    small = outputs(cut(double(size=size), selection), *audio((2400,), torch.float64))
    assert difference(small[-1], masked_outputs("hubert", size, selection)[-1]) <= TIGHT
    monkeypatch.setattr(SupportLayerNorm, "forward", nn.LayerNorm.forward)
    assert difference(small[-1], masked_outputs("hubert", size, selection)[-1]) > 0.01


def test_a_scale_enters_behind_the_norm_and_the_activation() -> None:
    units = names.channels(2)
    selection = Selection(axes={units: (1, 4, 5)}, scales={units: (0.5, 2.0, 0.25)})
    model = cut(double("hubert", "large"), selection)
    dense = double("hubert", "large")
    factors = torch.tensor([0.5, 2.0, 0.25], dtype=torch.float64)
    expected = dense.feature_projection.projection.weight[:, [1, 4, 5]] * factors
    torch.testing.assert_close(model.feature_projection.projection.weight, expected)
    for name in ("conv.weight", "layer_norm.weight", "layer_norm.bias"):
        actual = model.feature_extractor.conv_layers[2].get_parameter(name)
        torch.testing.assert_close(actual, dense.feature_extractor.conv_layers[2].get_parameter(name)[[1, 4, 5]])


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_output_bias_stays_when_all_heads_are_dead_and_goes_with_the_block(family: str) -> None:
    dense, hidden = double(family), torch.randn(2, 5, 24, dtype=torch.float64)
    dead = cut(dense, Selection(axes={names.heads(1): ()})).encoder.layers[1].attention
    assert torch.equal(
        dead(hidden)[0].expand(2, 5, 24), dense.encoder.layers[1].attention.out_proj.bias.expand(2, 5, 24)
    )
    removed = cut(dense, Selection(axes={names.attention_block(1): ()})).encoder.layers[1].attention
    assert not list(removed.parameters())
    assert torch.equal(removed(hidden)[0].expand(2, 5, 24), torch.zeros_like(hidden))


def test_output_bias_stays_when_all_units_are_dead_and_goes_with_the_block() -> None:
    dense, hidden = double(), torch.randn(2, 5, 24, dtype=torch.float64)
    dead = cut(dense, Selection(axes={names.feed_forward_units(1): ()})).encoder.layers[1].feed_forward
    assert torch.equal(dead(hidden), dense.encoder.layers[1].feed_forward.output_dense.bias)
    removed = cut(dense, Selection(axes={names.feed_forward_block(1): ()})).encoder.layers[1].feed_forward
    assert float(removed(hidden).abs().sum()) == 0.0


def test_post_norm_layers_apply_both_norms_even_when_both_blocks_are_gone() -> None:
    dense = double()
    axes = {names.attention_block(1): (), names.feed_forward_block(1): ()}
    layer, stock = cut(dense, Selection(axes=axes)).encoder.layers[1], dense.encoder.layers[1]
    hidden = torch.randn(2, 5, 24, dtype=torch.float64)
    expected = stock.final_layer_norm(stock.layer_norm(hidden))
    torch.testing.assert_close(layer(hidden), expected)


def test_group_norm_follows_the_number_of_channels() -> None:
    small = cut(double(), Selection(axes={names.channels(0): (0, 4)}))
    norm = small.feature_extractor.conv_layers[0].layer_norm
    assert (norm.num_groups, norm.num_channels) == (2, 2)


def test_a_zeroed_channel_contributes_nothing_though_the_activation_of_its_bias_is_not_zero() -> None:
    selection = Selection(axes={names.channels(0): (0, 4)})
    small = outputs(cut(double(), selection), *audio((2400,), torch.float64))
    assert difference(small[-1], masked_outputs("hubert", "base", selection)[-1]) <= TIGHT


def test_positional_convolution_keeps_gain_and_direction_together() -> None:
    dense = double()
    conv = cut(dense, Selection(axes={names.heads(0): (1,)})).encoder.pos_conv_embed.conv
    assert torch.equal(conv.weight, dense.encoder.pos_conv_embed.conv.weight)


@pytest.mark.parametrize("size", ["base", "large"])
def test_positional_groups_keep_the_weights_that_the_norm_of_all_gave_them(size: str) -> None:
    dense = double(size=size)
    small = cut(dense, Selection(axes={names.positional_groups(): (1, 3)})).encoder.pos_conv_embed.conv
    full_result = dense.encoder.pos_conv_embed.conv
    rows = [*range(6, 12), *range(18, 24)]
    torch.testing.assert_close(small.weight, full_result.weight[rows], rtol=1e-12, atol=1e-14)
    assert torch.equal(small.bias, full_result.bias[rows])
    assert small.groups == 2
    direction = "parametrizations.weight.original1"
    assert torch.equal(small.get_parameter(direction), full_result.get_parameter(direction)[rows])


def test_a_removed_positional_group_gives_nothing_though_the_activation_of_its_bias_is_not_zero() -> None:
    name = names.positional_groups()
    dense = double()
    small = cut(dense, Selection(axes={name: (0, 2)}, scales={name: (0.5, 2.0)}))
    hidden = torch.randn(2, 9, 24, dtype=torch.float64)
    full_result = dense.encoder.pos_conv_embed(hidden).detach().unflatten(-1, (4, 6))
    assert float(full_result[..., 1, :].abs().min()) > 0
    factors = torch.tensor([0.5, 0.0, 2.0, 0.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(small.encoder.pos_conv_embed(hidden), (full_result * factors).flatten(2))


def test_a_positional_group_without_any_weight_gives_its_bias_and_not_nan() -> None:
    dense = build(tiny_config("hubert", "base"), dtype=torch.float64)
    with torch.no_grad():
        dense.encoder.pos_conv_embed.conv.parametrizations.weight.original1[6:12] = 0.0
    small = cut(dense, Selection(axes={names.positional_groups(): (1,)})).encoder.pos_conv_embed
    hidden = torch.randn(2, 9, 24, dtype=torch.float64)
    expected = dense.encoder.pos_conv_embed(hidden)[..., 6:12]
    torch.testing.assert_close(small(hidden)[..., 6:12], expected)


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_softmax_scale_stays_that_of_the_original_head_width(family: str) -> None:
    all_widths = {names.query_key(0, head): (0, 3) for head in range(4)}
    attention = cut(double(family), Selection(axes=all_widths)).encoder.layers[0].attention
    assert attention.scaling == HEAD_DIM**-0.5
    assert attention.q_proj.out_features == 8


def test_a_head_without_query_key_dimensions_attends_uniformly() -> None:
    axes = {names.query_key(0, head): () for head in range(4)}
    model = cut(double(), Selection(axes=axes))
    attention = model.encoder.layers[0].attention
    assert attention.groups == ((4, 0, HEAD_DIM),)
    hidden = torch.randn(2, 5, 24, dtype=torch.float64)
    output, weights = attention(hidden)
    torch.testing.assert_close(weights, torch.full((2, 4, 5, 5), 0.2, dtype=torch.float64))
    mean = attention.out_proj(attention.v_proj(hidden).mean(1, keepdim=True))
    torch.testing.assert_close(output, mean.expand_as(output))


def test_a_head_without_value_output_dimensions_is_gone_with_its_queries_and_keys() -> None:
    axes = {names.value_output(0, 2): ()}
    closed = normalize(tiny_structure("hubert", "base"), Selection(axes=axes)).selection
    assert closed.axes[names.heads(0)] == (0, 1, 3)
    assert closed.axes[names.query_key(0, 2)] == ()
    assert cut(double(), closed).encoder.layers[0].attention.q_proj.out_features == 3 * HEAD_DIM


@pytest.mark.parametrize("axes", [{names.heads(0): ()}, {names.attention_block(0): ()}], ids=["heads", "block"])
def test_the_position_table_outlives_layer_zero(axes: dict[str, tuple[int, ...]]) -> None:
    selection = Selection(axes=axes)
    dense, small = double("wavlm"), cut(double("wavlm"), selection)
    table = small.encoder.layers[0].attention.rel_attn_embed.weight
    assert torch.equal(table, dense.encoder.layers[0].attention.rel_attn_embed.weight)
    actual_outputs = outputs(small, *audio((2400,), torch.float64))
    assert difference(actual_outputs[-1], masked_outputs("wavlm", "base", selection)[-1]) <= TIGHT


def test_the_position_table_goes_with_the_last_head_of_the_last_layer() -> None:
    none = {names.heads(layer): () for layer in range(3)}
    small = cut(double("wavlm"), Selection(axes=none))
    assert not [name for name in small.state_dict() if "rel_attn_embed" in name or "gru" in name]


def test_the_position_gate_reads_the_slices_of_the_original_heads() -> None:
    dense = double("wavlm").encoder.layers[1].attention
    small = cut(double("wavlm"), Selection(axes={names.heads(1): (1, 3)})).encoder.layers[1].attention
    hidden = torch.randn(2, 5, 24, dtype=torch.float64)
    split = hidden.view(2, 5, 4, HEAD_DIM).permute(0, 2, 1, 3)
    pair = torch.sigmoid(dense.gru_rel_pos_linear(split).view(2, 4, 5, 2, 4).sum(-1))
    gate = pair[..., :1] * (pair[..., 1:] * dense.gru_rel_pos_const - 1.0) + 2.0
    torch.testing.assert_close(small._gate(hidden), gate[:, [1, 3]])


def test_hidden_states_are_all_there_after_blocks_are_removed_and_hooks_are_fresh() -> None:
    dense = build(tiny_config("hubert", "base"))
    outputs(dense, *audio((1600,)))  # the library installs its capture hooks in the first forward
    small = cut(dense, Selection(axes={names.attention_block(1): (), names.feed_forward_block(1): ()}))
    assert len(outputs(small, *audio((1600,)))) == 3 + 1 + 1


def test_attention_weights_stay_one_entry_for_each_layer() -> None:
    axes = {names.heads(0): (1, 2), names.attention_block(1): ()}
    for family in ("hubert", "wavlm"):
        small = cut(double(family), Selection(axes=axes))
        with torch.no_grad():
            result = small(audio((1600,), torch.float64)[0], output_attentions=True)
        shapes = [tuple(weights.shape) for weights in result.attentions]
        assert shapes == [(1, 2, 10, 10), (1, 0, 10, 10), (1, 4, 10, 10)]


def test_a_mask_in_training_does_not_break_deepcopy() -> None:
    structure = tiny_structure("hubert", "base")
    model = build(tiny_config("hubert", "base"))
    masking = attach(model, structure)
    masking.set(torch.rand(structure.size).requires_grad_(True))
    values, _ = audio((1600,))
    model(values)[0].sum().backward()
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(values)[0], model.eval()(values)[0])


@pytest.mark.parametrize("family", ["hubert", "wavlm", "data2vec-audio"])
def test_removing_layers_after_an_earlier_cut_keeps_absolute_indices(family: str) -> None:
    first = cut(double(family), Selection(axes={names.whole_layer(2): (), names.heads(1): (0, 3)}))
    second = cut(first, Selection(axes={names.heads(1): (3,)}))
    at_once = cut(double(family), Selection(axes={names.whole_layer(2): (), names.heads(1): (3,)}))
    for name, value in at_once.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_macs_beyond_float32_are_exact() -> None:
    from transformers import HubertConfig

    from secateur.cost import Cost, Terms
    from secateur.hf.declare import declare

    structure = declare(HubertConfig())
    ten_minutes = Cost.from_terms(Terms(structure), cost="macs", samples=9_600_000)
    full_cost = ten_minutes.expected(torch.ones(structure.size, dtype=torch.float64))
    assert full_cost.dtype == torch.float64
    frames = structure.lengths(9_600_000)[-1]
    one_layer = 4 * 768 * 768 * frames + 2 * 768 * frames**2 + 2 * 768 * 3072 * frames
    layers = Cost.from_terms(Terms(structure), cost="macs", samples=9_600_000, scope="encoder.layers.3")
    assert int(layers.dense) == one_layer
    assert one_layer > 2**24
