"""Costs from the declaration equal counts of the real models: parameters, torch's flops, and means over draws."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    HEAD_DIM,
    LOW_RANK,
    MODELS,
    Plan,
    audio,
    make_selection,
    model_inputs,
    plans,
    tiny,
    tiny_config,
    tiny_structure,
)
from torch.utils.flop_counter import FlopCounterMode

import wav2vec2_axes as names
from secateur.cost import Cost, Terms, breakdown
from secateur.hf.declare import declare, skeleton
from secateur.hf.model_view import ConfigView
from secateur.nn.conformer_attention import CutConformerAttention
from secateur.structure import Selection, Structure, normalize
from secateur.surgery import cut
from secateur.surgery.cut import cut_config

SAMPLES = 1600


def counted_parameters(config: object) -> int:
    """Parameters of the base model of that config, as torch counts them."""
    return sum(parameter.numel() for parameter in skeleton(config).parameters())


def counted_macs(model: Any) -> int:
    """Half of torch's flops for one utterance, less the linear map in WavLM's bias gate, which no count includes.

    Of relative keys ours makes a product with each of the table's distances, and counts one with each other frame, as
    the stock class makes them.
    """
    remaining_items = 0
    model.set_attn_implementation("eager")  # fused kernels, used where no weights are asked for, hide their products
    values, _ = model_inputs(model, *audio((SAMPLES,)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        frames = model(values, output_attentions=True).last_hidden_state.shape[1]
    for layer in model.encoder.layers:
        linear = getattr(getattr(layer, "attention", None), "gru_rel_pos_linear", None)
        if linear is not None:
            remaining_items += frames * layer.attention.gru_rel_pos_const.shape[1] * HEAD_DIM * linear.out_features
    for module in model.modules():
        if isinstance(module, CutConformerAttention) and module.position_type == "relative_key":
            distances = module.distance_embedding.num_embeddings
            remaining_items += frames * (distances - frames) * sum(len(num_kept) for num_kept in module.query_key)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2 - remaining_items


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
@given(plan=st.one_of(plans(ragged=True), plans(ragged=False)))
def test_cost_of_a_selection_is_the_count_of_the_cut_model(family: str, size: str, plan: Plan) -> None:
    structure, terms = tiny_structure(family, size), Terms(tiny_structure(family, size))
    selection = make_selection(structure, plan)
    small = cut(tiny(family, size), selection)
    parameters, macs = (
        Cost.from_terms(terms, cost=cost, samples=SAMPLES).count(selection) for cost in ("parameters", "macs")
    )
    assert parameters == sum(parameter.numel() for parameter in small.parameters())
    assert macs == counted_macs(small)
    table = breakdown(declare(small.config), samples=SAMPLES)
    assert (table.parameters, table.macs) == (parameters, macs)
    table = breakdown(structure, samples=SAMPLES, selection=selection)
    assert (table.parameters, table.macs) == (parameters, macs)
    assert sum(block.macs for block in table.blocks.values()) == macs


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_cost_of_a_stock_model_is_its_count(family: str, size: str) -> None:
    model, table = tiny(family, size), breakdown(tiny_structure(family, size), samples=SAMPLES)
    unused = sum(model.get_parameter(name).numel() for name in tiny_structure(family, size).unused)
    assert table.parameters == sum(parameter.numel() for parameter in model.parameters()) - unused
    assert (unused > 0) == (family == "wav2vec2-conformer")  # the positional convolution that is never called
    if family == "wavlm":  # torch's fused attention hides its two products from the counter: use our equal shape
        model = cut(model, Selection(axes={}))
    assert table.macs == counted_macs(model)


def draw(structure: Structure, probability: torch.Tensor, generator: torch.Generator) -> Selection:
    """A selection of independent draws."""
    open_units = (torch.rand(structure.size, generator=generator, dtype=torch.float64) < probability).tolist()
    axes = {}
    for name, axis in structure.axes.items():
        start = structure.offsets[name]
        axes[name] = tuple(sorted(unit for position, unit in enumerate(axis.units) if open_units[start + position]))
    return Selection(axes=axes)


def zero_or_one(structure: Structure, seed: int) -> torch.Tensor:
    """Open probabilities of zero and one, sparse enough to close heads, blocks and whole conv layers."""
    rng = random.Random(seed)
    values = torch.ones(structure.size, dtype=torch.float64)
    layers = [name for name, axis in structure.axes.items() if axis.kind == "layer" and axis.size]
    trimmed = set(layers[rng.randint(1, len(layers)) :])
    for name, axis in structure.axes.items():
        share = rng.choice((0.0, 0.15, 0.5, 0.9, 1.0))
        for position in range(axis.size):
            is_open = name not in trimmed if axis.kind == "layer" else rng.random() < share
            values[structure.offsets[name] + position] = float(is_open)
    return values


@pytest.mark.parametrize(("family", "size"), MODELS)
@given(seed=st.integers(0, 2**31))
def test_expected_cost_at_zero_and_one_is_the_count_of_the_closed_selection(family: str, size: str, seed: int) -> None:
    structure = tiny_structure(family, size)
    probability = zero_or_one(structure, seed)
    closed = normalize(structure, draw(structure, probability, torch.Generator())).selection
    small = cut(tiny(family, size), closed)
    terms = Terms(structure)
    assert float(Cost.from_terms(terms, cost="parameters").expected(probability)) == sum(
        parameter.numel() for parameter in small.parameters()
    )
    assert float(Cost.from_terms(terms, cost="macs", samples=SAMPLES).expected(probability)) == counted_macs(small)


@pytest.mark.parametrize(("family", "size"), [model for model in MODELS if model[0] != "wav2vec2-bert"])
def test_a_conv_layer_with_every_gate_closed_is_counted_with_one_unit(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    probability = torch.ones(structure.size, dtype=torch.float64)
    start = structure.offsets[names.channels(1)]
    probability[start : start + structure.axes[names.channels(1)].size] = 0.0
    single_selection = Selection(axes={names.channels(1): (0,)})
    config = cut_config(
        ConfigView(tiny_config(family, size)), structure, normalize(structure, single_selection).selection
    ).config
    expected = Cost.from_terms(Terms(structure), cost="parameters").expected(probability)
    assert float(expected) == counted_parameters(config)


@pytest.mark.parametrize(("family", "size"), [("wavlm", "base"), ("hubert", "large")])
def test_expected_cost_is_the_mean_over_draws(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    generator = torch.Generator().manual_seed(3)
    probability = torch.rand(structure.size, generator=generator, dtype=torch.float64)
    for name, axis in structure.axes.items():
        units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
        if axis.kind == "layer":
            probability[units] = 1.0  # layers are chosen, never gated
        elif axis.kind in ("vo", "channels", "groups"):
            probability[units] *= 0.4  # so that whole heads and convolutions are often closed
    drawn = [normalize(structure, draw(structure, probability, generator)).selection for _ in range(1500)]
    for cost in ("parameters", "macs"):
        counted = Cost.from_terms(Terms(structure), cost=cost, samples=SAMPLES)
        draws = torch.tensor([counted.count(selection) for selection in drawn], dtype=torch.float64)
        error = draws.std() / len(draws) ** 0.5
        assert abs(float(counted.expected(probability)) - float(draws.mean())) < 4 * float(error)
        assert float(error) < 0.02 * float(draws.mean())  # tight enough to notice


@pytest.mark.parametrize(("family", "size"), [("wavlm", "base"), ("hubert", "large")])
def test_the_gradient_of_expected_cost_is_its_finite_difference(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    generator = torch.Generator().manual_seed(4)
    probability = torch.rand(structure.size, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    cost = Cost.from_terms(Terms(structure), cost="macs", samples=SAMPLES)
    leaf = probability.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cost.expected(leaf), leaf)
    for unit in torch.randint(structure.size, (12,), generator=generator).tolist():
        # The cost is a multilinear polynomial of the probabilities: a finite difference is exact.
        up, down = probability.clone(), probability.clone()
        up[unit], down[unit] = 1.0, 0.0
        slope = float(cost.expected(up) - cost.expected(down))
        assert float(gradient[unit]) == pytest.approx(slope, rel=1e-9, abs=1e-6)
