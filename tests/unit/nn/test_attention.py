"""Our attention at equal shape against the stock classes, and at unequal shapes against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import HEAD_DIM, MODELS, TOLERANCE, audio, build, difference, model_inputs, outputs, tiny, tiny_config

import wav2vec2_axes as names
from secateur.nn.attention import CutAttention
from secateur.structure import Selection
from secateur.surgery import cut

WHOLE = Selection(axes={})
EXACT = TOLERANCE[torch.float64]


@pytest.mark.parametrize("lengths", [(1600,), (2400, 990, 75)], ids=["plain", "padded"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "size"), MODELS)
def test_a_whole_cut_model_equals_the_stock_model(
    family: str, size: str, implementation: str, lengths: tuple[int, ...]
) -> None:
    if family == "wavlm" and implementation == "sdpa":
        pytest.skip("neither the stock class nor ours has an sdpa path for WavLM's gated bias")
    config = tiny_config(family, size, attn_implementation=implementation)
    stock = build(config, dtype=torch.float64)
    cut_model = cut(stock, WHOLE)
    assert cut_model.config._attn_implementation == implementation
    for a, b in zip(
        outputs(stock, *audio(lengths, torch.float64)), outputs(cut_model, *audio(lengths, torch.float64)), strict=True
    ):
        assert difference(a, b) <= EXACT


@pytest.mark.parametrize("family", ["hubert", "wavlm", "wav2vec2-conformer", "wav2vec2-bert"])
def test_attention_weights_are_those_of_the_stock_class(family: str) -> None:
    stock = tiny(family, "base", dtype=torch.float64)
    values, _ = model_inputs(stock, *audio((1600,), torch.float64))
    with torch.no_grad():
        reference, actual = (model(values, output_attentions=True).attentions for model in (stock, cut(stock, WHOLE)))
    for a, b in zip(reference, actual, strict=True):
        # The stock WavLM gives every head the mean over heads; ours gives each head its own.
        torch.testing.assert_close(b.mean(1), a.mean(1))
        if family != "wavlm":
            torch.testing.assert_close(b, a)


def by_loops(attention: CutAttention, hidden: torch.Tensor, queries: list[int], values: list[int]) -> torch.Tensor:
    """Attention of one head after another."""
    assert attention.q_proj is not None
    assert attention.k_proj is not None
    assert attention.v_proj is not None
    assert attention.out_proj is not None
    q, k, v = (layer(hidden) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    contexts, at, to = [], 0, 0
    for width, height in zip(queries, values, strict=True):
        logits = q[..., at : at + width] @ k[..., at : at + width].transpose(1, 2) * HEAD_DIM**-0.5
        contexts.append(torch.softmax(logits, -1) @ v[..., to : to + height])
        at, to = at + width, to + height
    return attention.out_proj(torch.cat(contexts, -1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_ragged_heads_equal_a_loop_over_heads(implementation: str) -> None:
    axes: dict[str, tuple[int, ...]] = {
        names.query_key(0, 0): (0, 1),
        names.value_output(0, 0): (0, 1, 5),
        names.query_key(0, 2): (),
        names.value_output(0, 3): (2, 3, 4),
        names.query_key(0, 3): (1, 4),
    }
    config = tiny_config("hubert", "base", attn_implementation=implementation)
    attention: Any = cut(build(config, dtype=torch.float64), Selection(axes=axes)).encoder.layers[0].attention
    assert attention.groups == ((1, 6, 6), (1, 0, 6), (2, 2, 3))
    hidden = torch.randn(2, 7, 24, dtype=torch.float64)
    expected = by_loops(attention, hidden, [6, 0, 2, 2], [6, 6, 3, 3])
    torch.testing.assert_close(attention(hidden)[0], expected)


def test_every_implementation_gives_the_same_for_ragged_heads_and_padding() -> None:
    axes: dict[str, tuple[int, ...]] = {
        names.query_key(0, 1): (),
        names.value_output(1, 2): (1, 2),
        names.heads(2): (3,),
    }
    small = cut(tiny("wav2vec2", "large", dtype=torch.float64), Selection(axes=axes))
    states = []
    for implementation in ("eager", "sdpa"):
        small.set_attn_implementation(implementation)
        states.append(outputs(small, *audio((2400, 990, 75), torch.float64)))
    assert all(difference(a, b) <= EXACT for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("time", [1, 2, 9, 40])
def test_position_bias_by_distance_is_the_stock_bias(time: int) -> None:
    stock = tiny("wavlm", "base").encoder.layers[0].attention
    cut_model = cut(tiny("wavlm", "base"), WHOLE).encoder.layers[0].attention
    assert torch.equal(cut_model(torch.randn(1, time, 24))[2], stock.compute_bias(time, time))


def test_distances_fall_into_the_stock_buckets_at_full_size() -> None:
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    stock = WavLMAttention(embed_dim=12, num_heads=12)
    config = tiny_config("wavlm", "base", num_buckets=320, max_bucket_distance=800)
    cut_model: Any = cut(build(config), WHOLE).encoder.layers[0].attention
    distances = torch.arange(-1499, 1500)
    table = torch.arange(320.0)[:, None].expand(320, 4)
    with torch.no_grad():
        cut_model.rel_attn_embed.weight.copy_(table)
    expected = stock._relative_positions_bucket(distances)
    assert torch.equal(cut_model.bias_by_distance(1500)[0].long(), expected)


def test_a_cut_model_can_be_trained_with_dropout() -> None:
    config = tiny_config("hubert", "base", attention_dropout=0.5, attn_implementation="sdpa")
    small = cut(build(config).train(), Selection(axes={names.query_key(0, 1): (), names.heads(1): ()}))
    small(audio((1600,))[0])[0].sum().backward()
    missing = [name for name, p in small.named_parameters() if p.grad is None and name != "masked_spec_embed"]
    assert not missing
