"""Predictor and joiner of a transducer: masked = shrunk, cost = counted, reloaded, cut again, the same tokens."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support import RAGGED, difference, make_selection
from torch import Tensor, nn
from transducer_toy import features, transducer

from secateur.cost import Cost, Terms, breakdown
from secateur.errors import ConfigError, ModelError, SelectionError
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.masking import attach, mask_values
from secateur.nn.lstm import UnevenLSTM
from secateur.structure import Selection, Structure, normalize
from secateur.structure.axis import HEAD_KINDS
from secateur.surgery import cut, load_model
from secateur.surgery.importance import magnitude_scores
from secateur.surgery.verify import verify
from secateur.tasks.decoding import greedy, stream
from secateur.tasks.rnnt_loss import fused_losses, losses

WIDTH, TOKENS, FRAME = 20, 12, 16
KINDS: dict[str, dict[str, Any]] = {
    "rnnt": {"num_decoder_layers": 2},
    "one_layer": {"num_decoder_layers": 1, "hidden_act": "silu"},
    "tdt": {"num_decoder_layers": 3, "durations": (0, 1, 2)},
    "streaming": {"num_decoder_layers": 2, "streaming": True},
}
#: For an encoder of two layers.
PLAN = replace(RAGGED, attention=("ragged", "narrow"), feed_forward=("units", "dead"))
EMBEDDING, JOINER = "decoder.embedding/predictor", "joint/joiner"


@cache
def dense_of(kind: str) -> Any:
    """A tiny transducer in float64; tests leave it as they found it."""
    model = transducer(**KINDS[kind]).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and not name.startswith(("joint.head", "encoder.")):
                value.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(len(name)))
    return model


def layer(number: int) -> str:
    return f"decoder.lstm/layer{number}.predictor"


def of_head(structure: Structure, seed: int, *, scales: bool = True) -> Selection:
    """Some units of every axis of the head, each with a factor."""
    draw, axes, factors = random.Random(seed), {}, {}
    for axis in structure.axes_of_kinds(HEAD_KINDS):
        axes[axis.name] = tuple(sorted(draw.sample(axis.units, draw.randint(1, axis.size))))
        if scales:
            factors[axis.name] = tuple(0.5 + draw.random() for _ in axes[axis.name])
    return Selection(axes=axes, scales=factors)


def ragged(structure: Structure, seed: int) -> Selection:
    """The same, and a little of everything of the encoder."""
    inner, head = make_selection(structure.without_head, PLAN), of_head(structure, seed)
    return Selection(axes={**inner.axes, **head.axes}, scales={**inner.scales, **head.scales})


def model_inputs(lengths: tuple[int, ...] = (81, 60)) -> dict[str, Tensor]:
    inputs = features(*lengths)
    return inputs | {"input_features": inputs["input_features"].double()}


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    rows = len(inputs["input_features"])
    tokens = torch.randint(0, TOKENS - 1, (rows, 6), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        out: Tensor = model(**inputs, decoder_input_ids=tokens).logits
    return out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_masked_equals_shrunk_in_wholeand_in_the_tokens_that_are_written(kind: str, seed: int) -> None:
    dense = dense_of(kind)
    structure = declare(dense.config)
    selection = ragged(structure, seed)
    small, initial_state = cut(dense, selection), {name: value.clone() for name, value in dense.state_dict().items()}
    ways = [(greedy, model_inputs()), *([(stream, model_inputs((80,)))] if kind == "streaming" else [])]
    masking = attach(dense, structure)
    try:
        masking.set(mask_values(structure, normalize(structure, selection).selection))
        masked = logits(dense, model_inputs())
        written_text = [way(dense, inputs) for way, inputs in ways]
    finally:
        masking.remove()
    assert difference(masked, logits(small, model_inputs())) <= 1e-13
    for (way, inputs), tokens in zip(ways, written_text, strict=True):
        assert torch.equal(way(small, inputs), tokens)
        assert len(tokens.unique()) > 1
    assert type(dense.decoder.lstm) is nn.LSTM
    assert all(torch.equal(value, initial_state[name]) for name, value in dense.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_head_is_the_stock_one_with_the_columns_of_removed_units_at_zero(kind: str) -> None:
    dense = dense_of(kind)
    structure = declare(dense.config)
    selection = of_head(structure, 5)
    values = {name: torch.zeros(WIDTH, dtype=torch.float64) for name in selection.axes}
    for name, units in selection.axes.items():
        values[name][list(units)] = torch.tensor(selection.scales[name], dtype=torch.float64)
    stock, layers = transducer(**KINDS[kind]).double(), KINDS[kind]["num_decoder_layers"]
    stock.load_state_dict(dense.state_dict())
    with torch.no_grad():
        for number in range(layers):
            below_target = layer(number - 1) if number else EMBEDDING
            getattr(stock.decoder.lstm, f"weight_ih_l{number}").mul_(values[below_target])
            getattr(stock.decoder.lstm, f"weight_hh_l{number}").mul_(values[layer(number)])
        stock.decoder.decoder_projector.weight.mul_(values[layer(layers - 1)])
        stock.joint.head.weight.mul_(values[JOINER])
    assert difference(logits(stock, model_inputs()), logits(cut(dense, selection), model_inputs())) <= 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_hand_counts(kind: str) -> None:
    dense = dense_of(kind)
    structure, outputs = declare(dense.config), TOKENS + len(KINDS[kind].get("durations", ()))
    selection = of_head(structure, 1)
    small, terms = cut(dense, selection), Terms(structure)
    embedded, *widths, joined = (len(units) for units in selection.axes.values())
    by_hand = TOKENS * embedded + (FRAME + 1) * joined + (widths[-1] + 1) * joined + (joined + 1) * outputs
    for below_target, width in zip([embedded, *widths], widths, strict=False):
        by_hand += 4 * width * (below_target + width + 2)
    head = Cost.from_terms(terms, cost="parameters", scope="transducer")
    assert head.count(selection) == by_hand
    for model, count in ((small, by_hand), (dense, head.dense)):
        assert count == sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    full_cost = Cost.from_terms(terms, cost="parameters").dense
    assert full_cost == sum(value.numel() for value in ModelView.of(dense).encoder.parameters())
    part = Cost.from_terms(terms, cost="parameters", scope="decoder.lstm")
    assert part.count(selection) == sum(value.numel() for value in small.decoder.lstm.parameters())
    assert breakdown(structure, samples=16_000, selection=selection).head == by_hand
    assert breakdown(structure, samples=16_000).parameters == full_cost
    for scope in ("transducer", "joint"):
        with pytest.raises(ConfigError, match=f"no MACs of the scope '{scope}'.*constrain its parameters"):
            Cost.from_terms(terms, cost="macs", scope=scope)


def test_the_expected_cost_of_a_head_is_the_mean_over_all_masks() -> None:
    structure = declare(transducer(decoder_hidden_size=3).config)
    head = [
        structure.offsets[axis.name] + position
        for axis in structure.axes_of_kinds(HEAD_KINDS)
        for position in range(axis.size)
    ]
    probability = torch.ones(structure.size, dtype=torch.float64)
    probability[head] = torch.rand(len(head), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost = Cost.from_terms(Terms(structure), cost="parameters", scope="transducer")
    mean = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=len(head)):
        values = torch.ones(structure.size, dtype=torch.float64)
        values[head] = open_ = torch.tensor(mask, dtype=torch.float64)
        likely = float((probability[head] * open_ + (1.0 - probability[head]) * (1.0 - open_)).prod())
        mean += likely * cost.exact(values)
    assert float(cost.expected(probability)) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_of_a_cut_is_one_cut_with_the_intersection(kind: str) -> None:
    dense = dense_of(kind)
    first = normalize(structure := declare(dense.config), of_head(structure, 2)).selection
    small = cut(dense, first)
    inner = declare(small.config)
    assert {name: tuple(sorted(axis.units)) for name, axis in inner.axes.items()} == dict(first.axes)
    second = normalize(inner, of_head(inner, 3)).selection
    recut_model = cut(small, second)
    scales = {
        name: tuple(first.scale_by_unit(name)[unit] * factor for unit, factor in second.scale_by_unit(name).items())
        for name in second.axes
    }
    at_once = cut(dense, Selection(axes=second.axes, scales=scales))
    assert recut_model.config.secateur == at_once.config.secateur
    assert recut_model.state_dict().keys() == at_once.state_dict().keys() == dense.state_dict().keys()
    for name, value in recut_model.state_dict().items():
        torch.testing.assert_close(value, at_once.state_dict()[name], rtol=1e-12, atol=1e-14)
    assert verify(recut_model, small, second).holds


RELOAD = """
import json, sys, torch, transformers, secateur
for folder, auto in zip(sys.argv[1::2], sys.argv[2::2]):
    model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float64).eval()
    output = model.generate(**torch.load(folder + "/inputs.pt"), decoder_start_token_id=11)
    print(type(model).__name__, json.dumps(output.sequences.tolist()))
"""


def test_cut_heads_are_loaded_in_a_new_process(tmp_path: Path) -> None:
    words, expected = [sys.executable, "-c", RELOAD], []
    for kind, auto in (("tdt", "AutoModelForTDT"), ("streaming", "AutoModelForRNNT")):
        dense, folder = dense_of(kind), tmp_path / kind
        small = cut(dense, of_head(declare(dense.config), 4))
        small.save_pretrained(folder)
        torch.save(inputs := model_inputs((80,)), folder / "inputs.pt")
        here = small.generate(**inputs, decoder_start_token_id=TOKENS - 1)
        words += [str(folder), auto]
        expected.append(f"{type(small).__name__} {json.dumps(here.sequences.tolist())}")
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-len(expected) :] == expected


@pytest.mark.parametrize("kind", ["tdt", "streaming"])
def test_a_cut_head_is_refused_by_stock_classes_and_where_a_part_is_missing(tmp_path: Path, kind: str) -> None:
    dense = dense_of(kind)
    small = cut(dense, of_head(declare(dense.config), 4))
    small.save_pretrained(tmp_path)
    reloaded = load_model(tmp_path)
    assert reloaded.config.secateur == small.config.secateur
    with pytest.raises(Exception, match=r"division|modulo"):
        type(dense).from_pretrained(tmp_path)
    remaining_shape = {name: value for name, value in small.state_dict().items() if name != "decoder.lstm.weight_hh_l1"}
    small.save_pretrained(tmp_path, state_dict=remaining_shape)
    with pytest.raises(ModelError, match=r"missing decoder\.lstm\.weight_hh_l1"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_proves_a_cut_head_and_catches_gates_out_of_order_and_a_wrong_bias(kind: str) -> None:
    dense = dense_of(kind)
    selection = of_head(declare(dense.config), 6)
    small = cut(dense, selection)
    assert verify(small, dense, selection).holds, verify(small, dense, selection)
    with torch.no_grad():
        for name in ("decoder.lstm.weight_hh_l0", "encoder_projector.bias", "decoder.embedding.weight"):
            value = small.get_parameter(name)
            saved_value = value.clone()
            value.copy_(value.roll(max(1, len(value) // 4), dims=0) + 0.01)
            assert not verify(small, dense, selection).holds, name
            value.copy_(saved_value)


def test_a_head_that_is_whole_stays_stock() -> None:
    dense = dense_of("rnnt")
    structure = declare(dense.config)
    small = cut(dense, make_selection(structure.without_head, PLAN))
    assert type(small.decoder) is type(dense.decoder)
    assert "secateur" not in small.config.to_dict()
    closed = normalize(structure, Selection(axes={JOINER: (), EMBEDDING: ()}))
    assert closed.selection.axes[JOINER] == closed.selection.axes[EMBEDDING] == (0,)  # one always stays
    assert len(closed.adjustments) == 2


def test_a_unit_weighs_as_much_as_its_rows_and_columns() -> None:
    dense = dense_of("rnnt")
    structure, lstm, unit = declare(dense.config), dense.decoder.lstm, 3
    rows = torch.arange(4) * WIDTH + unit  # of the gates i, f, g, o
    with torch.no_grad():
        squares = sum(getattr(lstm, f"weight_{name}_l0")[rows].square().sum() for name in ("ih", "hh"))
        squares += lstm.weight_hh_l0[:, unit].square().sum() + lstm.weight_ih_l1[:, unit].square().sum()
    result = magnitude_scores(ModelView(dense), structure)[structure.offsets[layer(0)] + unit]
    assert float(result) == pytest.approx(float(squares.sqrt()), rel=1e-6)


def test_masks_of_a_head_get_the_gradient_of_a_loss_that_is_made_piece_by_piece() -> None:
    dense, scripts, blank = dense_of("rnnt"), [[1, 5, 5, 2], [3]], TOKENS - 1
    structure, valid = declare(dense.config), torch.tensor([7, 4])
    frames = torch.randn(2, 7, FRAME, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.tensor([[blank, 1, 5, 5, 2], [blank, 3, blank, blank, blank]])
    result, masking = [], attach(dense, structure)
    try:
        for pieces in (True, False):
            leaf = mask_values(structure, of_head(structure, 8)).requires_grad_()
            masking.set(leaf)
            encoder_states, decoder_states = dense.encoder_projector(frames), dense.decoder(tokens)
            if pieces:
                loss = fused_losses(
                    dense.joint, encoder_states, decoder_states, valid, scripts, blank=blank, max_cells=10
                )
            else:
                full_audio = dense.joint(
                    encoder_hidden_states=encoder_states[:, :, None], decoder_hidden_states=decoder_states[:, None]
                )
                loss = losses(full_audio, valid, scripts, blank=blank)
            result.append(torch.autograd.grad(loss.sum(), leaf)[0])
    finally:
        masking.remove()
    torch.testing.assert_close(result[0], result[1], rtol=1e-9, atol=1e-12)
    for axis in structure.axes_of_kinds(HEAD_KINDS):
        units = slice(structure.offsets[axis.name], structure.offsets[axis.name] + axis.size)
        assert bool((result[0][units] != 0).any()), axis.name


def test_masks_of_a_head_want_the_whole_model() -> None:
    dense = dense_of("rnnt")
    with pytest.raises(ModelError, match="has no 'encoder_projector': give the whole model"):
        attach(ModelView.of(dense).encoder, declare(dense.config))


def test_an_lstm_of_equal_layers_is_the_one_of_torch_and_states_go_on() -> None:
    torch.manual_seed(0)
    stock = nn.LSTM(5, 7, num_layers=2, batch_first=True).double()
    module, values = UnevenLSTM.from_lstm(stock), torch.randn(3, 6, 5, dtype=torch.float64)
    expected, states = stock(values)
    actual, ends = module(values)
    torch.testing.assert_close((actual, ends), (expected, states), rtol=0, atol=1e-14)
    first, interval = module(values[:, :4])
    second, _ = module(values[:, 4:], interval)
    torch.testing.assert_close(torch.cat([first, second], dim=1), expected, rtol=0, atol=1e-14)
    assert module.weight_hh_l1 is stock.weight_hh_l1


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_one_width_fits_the_stock_layout_and_can_be_cut_again(kind: str, tmp_path: Path) -> None:
    dense = dense_of(kind)
    structure = declare(dense.config)
    draw = random.Random(0)
    axes = {axis.name: tuple(sorted(draw.sample(axis.units, 9))) for axis in structure.axes_of_kinds(HEAD_KINDS)}
    small = cut(dense, Selection(axes=axes), layout="stock")
    assert type(small) is type(dense)
    small.save_pretrained(tmp_path)
    loaded = type(dense).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.config.decoder_hidden_size == 9
    assert difference(logits(cut(dense, Selection(axes=axes)), model_inputs()), logits(loaded, model_inputs())) <= 1e-13
    inner = declare(loaded.config)
    assert {name: inner.axes[name].units for name in axes} == axes
    repeated = of_head(inner, 3, scales=False)
    at_once, recut_model = cut(dense, repeated), cut(loaded, repeated)
    assert recut_model.config.secateur == at_once.config.secateur
    assert difference(logits(at_once, model_inputs()), logits(recut_model, model_inputs())) <= 1e-13
    with pytest.raises(SelectionError, match=r"widths of predictor and joiner differ: .*; use the registered layout"):
        cut(dense, repeated, layout="stock")
