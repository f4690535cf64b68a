"""Masks in stock models: gradients, removal, copies, bypassed layers, norms over unmasked channels."""

from __future__ import annotations

import copy

import pytest
import torch
from support import MODELS, audio, build, outputs, tiny_config, tiny_structure
from torch import nn

import wav2vec2_axes as names
from secateur.masking import attach, compile_mask_factors, mask_values
from secateur.nn.norm import SupportLayerNorm
from secateur.structure import Selection, normalize


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_a_mask_of_ones_changes_no_bit(family: str, size: str) -> None:
    structure, model = tiny_structure(family, size), build(tiny_config(family, size))
    initial_output = outputs(model, *audio((1600,)))
    masking = attach(model, structure)
    masking.set(torch.ones(structure.size))
    assert all(torch.equal(a, b) for a, b in zip(initial_output, outputs(model, *audio((1600,))), strict=True))


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_removal_restores_the_parameters_and_their_names(family: str, size: str) -> None:
    structure, model = tiny_structure(family, size), build(tiny_config(family, size))
    initial_state = {name: (id(value), value.detach().clone()) for name, value in model.named_parameters()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    masking = attach(model, structure)
    masking.set(torch.rand(structure.size))
    outputs(model, *audio((1600,)))
    masking.remove()
    final = dict(model.named_parameters())
    assert initial_state.keys() == final.keys()
    for name, (identity, value) in initial_state.items():
        assert id(final[name]) == identity, name
        assert torch.equal(final[name], value), name
    assert {name: type(module) for name, module in model.named_modules()} == kinds


def test_the_gradient_of_a_mask_equals_the_gradient_of_explicit_scaling() -> None:
    structure, model = tiny_structure("hubert", "base"), build(tiny_config("hubert", "base"), dtype=torch.float64)
    name, (values, _) = names.feed_forward_units(1), audio((1600,), torch.float64)
    masking = attach(model, structure)
    mask = torch.ones(structure.size, dtype=torch.float64, requires_grad=True)
    masking.set(mask)
    model(values)[0].square().sum().backward()
    assert mask.grad is not None
    start = structure.offsets[name]
    through_tap = mask.grad[start : start + 10]
    masking.remove()
    scale = torch.ones(10, dtype=torch.float64, requires_grad=True)
    # By hand: the units behind the activation, as an input of the next linear map.
    hook = model.encoder.layers[1].feed_forward.output_dense.register_forward_pre_hook(
        lambda module, inputs: (inputs[0] * scale,)
    )
    (by_hand,) = torch.autograd.grad(model(values)[0].square().sum(), scale)
    hook.remove()
    torch.testing.assert_close(through_tap, by_hand)


def test_the_mask_of_positional_groups_scales_what_they_add_to_the_residual_stream() -> None:
    structure, model = tiny_structure("hubert", "base"), build(tiny_config("hubert", "base"), dtype=torch.float64)
    hidden, name = torch.randn(2, 9, 24, dtype=torch.float64), names.positional_groups()
    initial_output = model.encoder.pos_conv_embed(hidden)
    factors = torch.tensor([0.5, 0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    by_hand = (initial_output.unflatten(-1, (4, 6)) * factors[:, None]).flatten(2)
    start = structure.offsets[name]
    masking = attach(model, structure)
    mask = torch.ones(structure.size, dtype=torch.float64)
    mask[start : start + 4] = factors.detach()
    masking.set(mask.requires_grad_())
    masked = model.encoder.pos_conv_embed(hidden)
    assert torch.equal(masked, by_hand)
    actual, reference = (
        torch.autograd.grad(out.square().sum(), z)[0] for out, z in ((masked, mask), (by_hand, factors))
    )
    torch.testing.assert_close(actual[start : start + 4], reference)
    masking.remove()
    assert torch.equal(model.encoder.pos_conv_embed(hidden), initial_output)


def test_a_query_key_mask_multiplies_the_logit_once() -> None:
    structure, model = tiny_structure("hubert", "base"), build(tiny_config("hubert", "base"), dtype=torch.float64)
    attention, hidden = model.encoder.layers[0].attention, torch.randn(1, 4, 24, dtype=torch.float64)
    split = (1, 4, 4, 6)
    q, k = (getattr(attention, name)(hidden).view(split)[:, :, 2].detach() for name in ("q_proj", "k_proj"))
    factor = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.0, 0.25], dtype=torch.float64)
    expected = torch.softmax((q * factor) @ k.transpose(1, 2) * 6**-0.5, dim=-1)
    masking = attach(model, structure)
    mask = torch.ones(structure.size, dtype=torch.float64)
    start = structure.offsets[names.query_key(0, 2)]
    mask[start : start + 6] = factor
    masking.set(mask)
    torch.testing.assert_close(attention(hidden)[1][:, 2], expected)


def test_factors_of_heads_and_their_dimensions_multiply() -> None:
    structure = tiny_structure("wavlm", "base")
    units, head = names.value_output(0, 1), names.heads(0)
    selection = Selection(
        axes={units: (0, 2), head: (1, 3)},
        scales={units: (0.5, 2.0), head: (3.0, 1.0)},
    )
    values = mask_values(structure, normalize(structure, selection).selection)
    factor = compile_mask_factors(structure)["encoder.layers.0.attention.out_proj.weight"].broadcast(values, 2)
    assert factor.shape == (1, 24)
    assert factor[0].tolist() == [0.0] * 6 + [1.5, 0.0, 6.0, 0.0, 0.0, 0.0] + [0.0] * 6 + [1.0] * 6


def test_a_masked_layer_returns_its_input() -> None:
    structure, model = tiny_structure("wavlm", "large"), build(tiny_config("wavlm", "large"))
    masking = attach(model, structure)
    mask = torch.ones(structure.size)
    mask[structure.offsets[names.whole_layer(2)]] = 0.0
    masking.set(mask)
    states = outputs(model, *audio((1600,)))
    assert torch.equal(states[3], states[2])
    assert torch.equal(states[4], model.encoder.layer_norm(states[2]))
    masking.set(None)
    assert not torch.equal(outputs(model, *audio((1600,)))[3], states[3])


def test_masks_do_not_break_a_deep_copy() -> None:
    structure, model = tiny_structure("hubert", "large"), build(tiny_config("hubert", "large"))
    masking = attach(model, structure)
    masking.set(torch.rand(structure.size).requires_grad_(True))
    model(audio((1600,))[0])[0].sum().backward()
    twin = copy.deepcopy(model)
    initial_output = outputs(model, *audio((1600,)))
    assert torch.equal(outputs(twin, *audio((1600,)))[-1], initial_output[-1])
    other_tensor = torch.rand(structure.size)
    other_tensor[structure.offsets[names.whole_layer(2)]] = 0.0
    masking.set(other_tensor)
    final, reference = outputs(model, *audio((1600,))), outputs(twin, *audio((1600,)))
    assert not torch.equal(final[0], initial_output[0])
    assert torch.equal(final[3], final[2])
    assert all(torch.equal(a, b) for a, b in zip(reference, initial_output, strict=True))  # it has masks of its own


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_norm_over_a_support_is_the_stock_norm_of_the_gathered_channels(dtype: torch.dtype) -> None:
    features, kept_units = 512, torch.randperm(512)[:301].sort().values
    stock = nn.LayerNorm(features).to(dtype)
    with torch.no_grad():
        stock.weight.copy_(torch.randn(features))
        stock.bias.copy_(torch.randn(features))
    module = SupportLayerNorm.from_norm(stock)
    module.support = torch.zeros(features, dtype=torch.bool)
    module.support[kept_units] = True
    small = nn.LayerNorm(len(kept_units)).to(dtype)
    with torch.no_grad():
        small.weight.copy_(stock.weight[kept_units])
        small.bias.copy_(stock.bias[kept_units])
    values = (torch.randn(3, 7, features) * 2 + 5).to(dtype)
    result = module(values)
    # bfloat16 rounds the normed value before and after the bias; its unit in the last place at 8 is 1/32.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 7e-2}[dtype]
    assert float((result[..., kept_units] - small(values[..., kept_units])).detach().abs().max()) <= tolerance
    assert float(result[..., ~module.support].detach().abs().max()) == 0.0


def test_a_norm_without_any_support_gives_zero_and_not_nan() -> None:
    norm = SupportLayerNorm(4, 1e-5)
    norm.support = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(norm(torch.randn(2, 4)), torch.zeros(2, 4))


def test_an_unmasked_norm_shares_parameters_and_output_bits_with_the_stock_norm() -> None:
    stock = nn.LayerNorm(16)
    module, values = SupportLayerNorm.from_norm(stock), torch.randn(3, 16)
    assert module.weight is stock.weight
    assert torch.equal(module(values), stock(values))
