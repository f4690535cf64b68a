"""Sizes of the default configs, of published pruned models, and of the scope of Wang et al., by count."""

from __future__ import annotations

import pytest
from transformers import HubertConfig, Wav2Vec2BertConfig, Wav2Vec2Config, Wav2Vec2ConformerConfig, WavLMConfig

import wav2vec2_axes as names
from secateur.cost import Cost, Terms, breakdown
from secateur.hf.declare import declare, skeleton
from secateur.structure import Selection, normalize
from shapes import DIARIZEN_CONV, DIARIZEN_HEADS, diarizen


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(WavLMConfig, 94_381_936), (HubertConfig, 94_371_712), (Wav2Vec2Config, 94_371_712)],
)
def test_default_configs_have_their_known_size(config: type, parameters: int) -> None:
    table = breakdown(declare(config()), samples=16000)
    assert table.parameters == parameters
    assert table.macs == 6_911_374_336
    assert table.frames == 49
    assert table.scopes["frontend"] == {"parameters": 4_200_448, "macs": 2_450_123_776}
    assert table.blocks["encoder.pos_conv_embed"].macs == 235_929_600


def test_w2v_bert_2_has_its_published_size() -> None:
    width, units, kernel, heads, layers = 1024, 4096, 31, 16, 24
    feed_forward = 2 * width * units + units + width
    attention = 4 * (width * width + width) + (64 + 8 + 1) * width // heads  # and the table of relative keys
    convolution = 3 * width * width + width * kernel
    norms = 2 * (1 + 1 + 1 + 1 + 1 + 1) * width  # one before each block, one behind the depthwise filter, one last
    layer = 2 * feed_forward + attention + convolution + norms
    projection = 2 * 160 + 160 * width + width
    table = breakdown(declare(Wav2Vec2BertConfig()), samples=16000)
    assert table.parameters == layers * layer + projection + width == 580_493_120  # and the mask vector
    assert table.frames == 49
    products = 49 * (4 * width * units + 4 * width * width + convolution) + 3 * 49 * 49 * width
    assert table.macs == layers * products + 49 * 160 * width == 28_584_263_680
    assert table.scopes["frontend"] == {"parameters": projection, "macs": 49 * 160 * width}


def test_the_positional_convolution_that_is_never_called_is_no_parameter_of_a_conformer() -> None:
    config = Wav2Vec2ConformerConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        position_embeddings_type="rotary",
        feat_extract_norm="layer",
        conv_bias=True,
    )
    full_result = sum(parameter.numel() for parameter in skeleton(config).parameters())
    unused = 1024 * 1024 // 16 * 128 + 128 + 1024  # directions, a magnitude for each tap, biases
    assert (full_result, unused) == (593_344_128, 8_389_760)
    structure = declare(config)
    assert breakdown(structure, samples=16000).parameters == full_result - unused
    assert {name.rpartition(".conv.")[0] for name in structure.unused} == {"encoder.pos_conv_embed"}


def test_a_group_of_the_positional_convolution_has_its_weights_and_biases() -> None:
    structure = declare(WavLMConfig())
    half = normalize(structure, Selection(axes={names.positional_groups(): tuple(range(0, 16, 2))})).selection
    terms, group = Terms(structure), 48 * 48 * 128
    gated = frozenset({names.positional_groups()})
    for scope, dense, first_item in (
        ("whole", 94_381_936, group + 48),
        ("encoder", 89_785_712, group + 48),
        ("gated", 16 * group, group),  # no biases
    ):
        cost = Cost.from_terms(terms, cost="parameters", scope=scope, gated=gated)
        assert (cost.dense, cost.count(half)) == (dense, dense - 8 * first_item), scope
    macs = Cost.from_terms(terms, cost="macs", scope="encoder.pos_conv_embed")
    assert (macs.dense, macs.count(half)) == (50 * 16 * group, 50 * 8 * group)  # 49 frames and the one that is cropped


def test_wavlm_has_10224_parameters_for_its_position_bias() -> None:
    # The table: 320 buckets x 12 heads; per layer a constant for each head and a linear map from 64 to 8.
    table = 320 * 12
    gates = 12 * (12 + 64 * 8 + 8)
    assert table + gates == 94_381_936 - 94_371_712


def test_gated_scope_of_wang_et_al_is_the_transformer_matrices() -> None:
    structure = declare(WavLMConfig())
    kinds = ("qk", "vo", "units", "block")
    gated = frozenset(axis.name for axis in structure.axes_of_kinds(kinds))
    cost = Cost.from_terms(Terms(structure), cost="parameters", scope="gated", gated=gated)
    assert cost.dense == 12 * (4 * 768 * 768 + 2 * 768 * 3072) == 84_934_656


def test_diarizens_published_shape_has_its_published_size() -> None:
    structure = declare(WavLMConfig())
    terms, closed = Terms(structure), normalize(structure, diarizen()).selection
    parameters, frontend = (
        Cost.from_terms(terms, cost="parameters", scope=scope).count(closed) for scope in ("whole", "frontend")
    )
    # Theirs has no masked_spec_embed; it has one scale for each channel of the last convolution; and where attention
    # is left, the position gate keeps its constant for all twelve heads, where ours keeps those of living heads.
    masked_spec_embed = 768
    last_channel_scales = DIARIZEN_CONV[-1]
    constants_of_dead_heads = sum(12 - len(heads) for heads in DIARIZEN_HEADS if heads)
    assert (last_channel_scales, constants_of_dead_heads) == (137, 93)
    assert parameters == 18_882_221
    assert parameters - masked_spec_embed + last_channel_scales + constants_of_dead_heads == 18_881_683
    assert frontend + last_channel_scales == 564_058


def test_diarizens_published_shape_has_its_published_macs() -> None:
    structure = declare(WavLMConfig())
    terms, closed = Terms(structure), normalize(structure, diarizen()).selection
    assert Cost.from_terms(terms, cost="macs").count(closed) == 1_134_228_239
    assert Cost.from_terms(terms, cost="macs", scope="frontend").count(closed) == 227_414_159
