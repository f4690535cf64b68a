"""FastConformers, Parakeet's and Nemotron's: masked = shrunk, cost = counted, reloaded, step by step = whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    FAST_CONFORMERS,
    FAST_LOW_RANK,
    RAGGED,
    SIZES,
    TOLERANCE,
    Plan,
    difference,
    make_selection,
    plans,
    randomize,
)

from support import audio, outputs, tiny, tiny_config, tiny_structure  # isort: skip
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from secateur.architectures.registry import FAMILIES
from secateur.cost import Cost, Terms
from secateur.errors import ModelError
from secateur.hf.configs import make_composite_config
from secateur.hf.declare import declare
from secateur.hf.load import with_head
from secateur.hf.model_view import ModelView
from secateur.masking import attach, mask_values
from secateur.structure import Selection, Structure, factorizations_to_merge, normalize
from secateur.structure import axis as names
from secateur.surgery import cut, load_model
from secateur.surgery.factorize import factorize, max_ranks_by_path
from secateur.surgery.verify import verify

MODELS = [*((family, size) for family in FAST_CONFORMERS for size in SIZES), *FAST_LOW_RANK]
NEMOTRON = "nemotron_asr_streaming_encoder"
BATCHES = ((16_000,), (70, 71), (9000, 9000), (12_000, 5000, 75))
HEADS = [(family, ending) for family in FAST_CONFORMERS for ending in FAMILIES[family].composite_model_types]
BLANK = 8


@cache
def with_blank(family: str, ending: str, size: str = "base") -> Any:
    """A tiny stock model with a head, or a factorised one."""
    if size == "low_rank":
        return factorize(with_blank(family, ending), max_ranks_by_path(tiny_structure(family, "base")))
    fields: dict[str, Any] = {"vocab_size": 9, "pad_token_id": BLANK if ending == "ForCTC" else 0}
    if ending != "ForCTC":
        fields |= {"blank_token_id": BLANK, "decoder_hidden_size": 6, "num_decoder_layers": 1}
    config = make_composite_config(tiny_config(family, "base"), ending, fields)
    model = getattr(transformers, FAMILIES[family].class_name(ending))(config)
    randomize(model)
    model.generation_config.decoder_start_token_id = BLANK
    return model.eval()


def features_of(samples: int, dtype: torch.dtype = torch.float32, batch: int = 1) -> Tensor:
    shape = tiny_structure(FAST_CONFORMERS[0], "base").input_shape(batch, samples)
    return torch.randn(shape, generator=torch.Generator().manual_seed(samples), dtype=torch.float64).to(dtype)


def masked_and_cut(dense: Any, structure: Structure, selection: Selection, lengths: tuple[int, ...]) -> float:
    """The largest difference of any output of the masked and the cut model, relative to its root mean square."""
    dtype = next(dense.parameters()).dtype
    small, closed = cut(dense, selection), normalize(structure, selection).selection
    values, mask = audio(lengths, dtype)
    masking = attach(dense, structure)
    try:
        masking.set(mask_values(structure, closed, dtype))
        masked = outputs(dense, values, mask)
    finally:
        masking.remove()
    actual_outputs = outputs(small, values, mask)
    pairs = [
        *zip(masked[: len(actual_outputs) - 1], actual_outputs[:-1], strict=True),
        (masked[-1], actual_outputs[-1]),
    ]
    return max(difference(left, right) for left, right in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("family", "size"), MODELS)
@given(plan=st.one_of(plans(ragged=True), plans(ragged=False)), lengths=st.sampled_from(BATCHES))
@settings(max_examples=12)
def test_masked_equals_shrunk(family: str, size: str, dtype: torch.dtype, plan: Plan, lengths: tuple[int, ...]) -> None:
    structure = tiny_structure(family, size)
    result = masked_and_cut(tiny(family, size, "Model", dtype), structure, make_selection(structure, plan), lengths)
    assert result <= TOLERANCE[dtype]


def test_masked_equals_shrunk_in_the_eager_form_but_for_the_float32_of_its_softmax() -> None:
    dense, structure = tiny("parakeet_encoder", "base", "Model", torch.float64), tiny_structure(*MODELS[0])
    dense.set_attn_implementation("eager")
    try:
        result = masked_and_cut(dense, structure, make_selection(structure, RAGGED), (9000, 9000))
    finally:
        dense.set_attn_implementation("sdpa")
    # Logits that differ by 1e-16 may be rounded to neighbours in float32, whose weights differ by 1e-7.
    assert result <= 1e-6


@pytest.mark.parametrize(("family", "size"), MODELS)
@given(plan=plans(ragged=False))
@settings(max_examples=6)
def test_the_structure_and_the_cost_of_a_cut_model_are_those_of_its_selection(
    family: str, size: str, plan: Plan
) -> None:
    structure = tiny_structure(family, size)
    closed = normalize(structure, make_selection(structure, plan)).selection
    small = cut(tiny(family, size), closed)
    repeated = declare(small.config)
    # No ranks where a map is gone, or one matrix again.
    left = {linear.axis for linear in structure.factorizations if not closed.axes[linear.axis]}
    left |= {linear.axis for linear in factorizations_to_merge(structure, closed.axes)}
    expected = {name: units for name, units in closed.axes.items() if name not in left}
    assert {name: tuple(sorted(axis.units)) for name, axis in repeated.axes.items()} == expected
    assert all(
        small.get_parameter(weight.name).numel() == torch.Size(weight.shape).numel() for weight in repeated.weights
    )
    count = Cost.from_terms(Terms(structure), cost="parameters").count(closed)
    assert count == sum(parameter.numel() for parameter in small.parameters())
    small.set_attn_implementation("eager")  # fused kernels hide their products
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small(features_of(16_000))
    assert (
        Cost.from_terms(Terms(structure), cost="macs", samples=16_000).count(closed) == counter.get_total_flops() // 2
    )


@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_the_cost_of_a_stock_model_is_its_count(family: str) -> None:
    model, terms = tiny(family, "base"), Terms(tiny_structure(family, "base"))
    assert Cost.from_terms(terms, cost="parameters").dense == sum(parameter.numel() for parameter in model.parameters())
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(features_of(16_000))
    finally:
        model.set_attn_implementation("sdpa")
    assert Cost.from_terms(terms, cost="macs", samples=16_000).dense == counter.get_total_flops() // 2


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_expected_cost_is_the_mean_over_draws_of_heads_and_of_the_dimensions_that_they_share(cost: str) -> None:
    structure = tiny_structure("parakeet_encoder", "base")
    generator, rng = torch.Generator().manual_seed(3), random.Random(0)
    probability = torch.rand(structure.size, generator=generator, dtype=torch.float64)
    for name, axis in structure.axes.items():
        units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
        if axis.kind == "layer":
            probability[units] = 1.0  # layers are chosen, never gated
        elif axis.kind in ("heads", "vo", "channels"):
            probability[units] *= 0.4  # so that whole heads and convolutions are often closed
    counted = Cost.from_terms(Terms(structure), cost=cost, samples=16_000)

    chance = probability.tolist()

    def draw() -> Selection:
        kept_units = {
            name: tuple(
                unit for at, unit in enumerate(axis.units, structure.offsets[name]) if rng.random() < chance[at]
            )
            for name, axis in structure.axes.items()
        }
        return normalize(structure, Selection(axes=kept_units)).selection

    draws = torch.tensor([counted.count(draw()) for _ in range(800)], dtype=torch.float64)
    error = float(draws.std()) / len(draws) ** 0.5
    assert abs(float(counted.expected(probability)) - float(draws.mean())) < 4 * error
    assert error < 0.03 * float(draws.mean())  # tight enough to notice


@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_a_model_cut_twice_is_the_one_cut_at_once(family: str) -> None:
    dense, structure = tiny(family, "base"), tiny_structure(family, "base")
    first = make_selection(structure, RAGGED)
    original = cut(dense, first)
    then = {
        axis.name: axis.units[::2]
        for axis in declare(original.config).axes_of_kinds(("heads", "qk", "units", "channels"))
    }
    pair = Selection(axes={**first.axes, **then}, scales={k: v for k, v in first.scales.items() if k not in then})
    scaled = {
        name: tuple(first.scale_by_unit(name)[unit] for unit in then[name]) for name in first.scales if name in then
    }
    pair = Selection(axes=pair.axes, scales={**pair.scales, **{k: v for k, v in scaled.items() if v}})
    recut_model, at_once = cut(original, Selection(axes=then)), cut(dense, pair)
    values, mask = audio((9000, 5000))
    for left, right in zip(outputs(recut_model, values, mask), outputs(at_once, values, mask), strict=True):
        assert difference(left, right) <= TOLERANCE[torch.float32]


def stream(model: Any, features: Tensor, lookahead: int) -> Tensor:
    """What a streaming encoder gives in as many whole steps as there are: (B, T, D)."""
    step, cache, padding, given_back = lookahead + 1, None, None, []
    at, size = 0, 8 * lookahead + 1  # the first frame sees one vector of features, each other eight more
    with torch.no_grad():
        while at + size <= features.shape[1]:
            result = model(
                features[:, at : at + size],
                past_key_values=cache,
                padding_cache=padding,
                use_cache=True,
                num_lookahead_tokens=lookahead,
            )
            cache, padding = result.past_key_values, result.padding_cache
            given_back.append(result[0])
            at, size = at + size, 8 * step
    return torch.cat(given_back, dim=1)


REMOVED = Selection(axes={f"layers.{layer}.self_attn/block": () for layer in (0, 1)} | {"layers.2.self_attn/qk": ()})
NO_MODULES = Selection(axes={f"layers.0.{name}/block": () for name in ("conv", "self_attn", "feed_forward1")})


@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("size", ["base", "low_rank"])
@pytest.mark.parametrize("selection", [None, "ragged", REMOVED, NO_MODULES], ids=["stock", "ragged", "first", "block"])
def test_step_by_step_is_the_whole_pass(selection: Selection | str | None, size: str, lookahead: int) -> None:
    model, structure = tiny(NEMOTRON, size, "Model", torch.float64), tiny_structure(NEMOTRON, size)
    if selection is not None:
        model = cut(model, make_selection(structure, RAGGED) if isinstance(selection, str) else selection)
    features = features_of(38_000, torch.float64, batch=2)
    steps = stream(model, features, lookahead)
    with torch.no_grad():
        full_result = model(features, num_lookahead_tokens=lookahead)[0]
    assert steps.shape[1] > 20  # more than the window of the cache
    assert difference(full_result[:, : steps.shape[1]], steps) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize("size", ["base", "low_rank"])
@pytest.mark.parametrize(("family", "ending"), HEADS)
def test_a_cut_model_with_a_head_writes_what_the_masked_one_writes(family: str, ending: str, size: str) -> None:
    dense = with_blank(family, ending, size)
    structure = declare(dense.config)
    selection = make_selection(structure, RAGGED)
    small = cut(dense, selection)
    features = features_of(16_000, batch=2)
    inputs = {"input_features": features, "attention_mask": torch.ones(features.shape[:2], dtype=torch.long)}
    masking = attach(dense, structure)
    try:
        masking.set(mask_values(structure, normalize(structure, selection).selection, torch.float32))
        masked = dense.generate(**inputs)
    finally:
        masking.remove()
    actual = small.generate(**inputs)
    assert torch.equal(getattr(masked, "sequences", masked), getattr(actual, "sequences", actual))


RELOAD = """
import json, sys, torch, transformers, secateur
for folder, auto in zip(sys.argv[1::2], sys.argv[2::2]):
    model = getattr(transformers, auto).from_pretrained(folder).eval()
    inputs = torch.load(folder + "/inputs.pt")
    with torch.no_grad():
        output = model.generate(**inputs)
    print(type(model).__name__, json.dumps(getattr(output, "sequences", output).tolist()))
"""


def test_cut_models_are_loaded_in_a_new_process_by_their_auto_classes(tmp_path: Path) -> None:
    features = features_of(16_000)
    inputs = {"input_features": features, "attention_mask": torch.ones(features.shape[:2], dtype=torch.long)}
    words, expected = [sys.executable, "-c", RELOAD], []
    for family, ending, size in [(*HEADS[1], "base"), (*HEADS[-1], "base"), (*HEADS[-1], "low_rank")]:
        dense, folder = with_blank(family, ending, size), tmp_path / f"{family}-{size}"
        small = cut(dense, make_selection(declare(dense.config), RAGGED))
        assert bool(declare(small.config).factorizations) == (size == "low_rank")
        small.save_pretrained(folder)
        torch.save(inputs, folder / "inputs.pt")
        here = small.generate(**inputs)
        words += [str(folder), f"AutoModel{ending}"]
        expected.append(f"{type(small).__name__} {json.dumps(getattr(here, 'sequences', here).tolist())}")
        reloaded, state = load_model(folder), small.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in reloaded.state_dict().items())
        with pytest.raises(Exception, match=r"division|modulo"):
            type(with_blank(family, ending)).from_pretrained(folder)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-len(expected) :] == expected


@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_a_folder_without_one_weight_is_refused(tmp_path: Path, family: str) -> None:
    small = cut(tiny(family, "base"), make_selection(tiny_structure(family, "base"), RAGGED))
    state = {name: value for name, value in small.state_dict().items() if not name.endswith("norm_out.weight")}
    small.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"missing .*norm_out\.weight"):
        transformers.AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", ["base", "low_rank"])
@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_verify_proves_a_cut_model_and_catches_a_wrong_bias(family: str, size: str) -> None:
    dense = with_blank(family, "ForRNNT", size)
    selection = make_selection(declare(dense.config), RAGGED)
    small = cut(dense, selection)
    assert verify(small, dense, selection).holds, verify(small, dense, selection)
    with torch.no_grad():
        small.encoder.subsampling.linear.bias[0] += 0.1
    assert not verify(small, dense, selection).holds


@pytest.mark.parametrize("family", FAST_CONFORMERS)
def test_a_factorised_model_computes_the_same_and_its_two_matrices_are_one_again_where_that_is_cheaper(
    family: str,
) -> None:
    dense, two = (tiny(family, size, "Model", torch.float64) for size in ("large", "low_rank"))
    values, mask = audio((9000, 5000), torch.float64)
    single_selection = cut(two, Selection(axes={}))
    assert declare(two.config).factorizations
    assert not declare(single_selection.config).factorizations
    for model in (two, single_selection):
        for left, right in zip(outputs(dense, values, mask), outputs(model, values, mask), strict=True):
            assert difference(left, right) <= TOLERANCE[torch.float64]


def test_break_even_counts_the_dimensions_of_every_head() -> None:
    structure, path = tiny_structure("parakeet_encoder", "low_rank"), "layers.0.self_attn"
    # Of 24 inputs three heads keep four dimensions each: 24 x 12 = 288 numbers, and 36 a rank; 8 ranks are as many.
    axes = {names.heads(path): (0, 1, 3), names.shared_query_key(path): (0, 1, 2, 5)}
    for ranks, full_scope in ((7, False), (8, True)):
        closed = normalize(structure, Selection(axes={**axes, names.ranks(f"{path}.q_proj"): tuple(range(ranks))}))
        repeated = {linear.module for linear in factorizations_to_merge(structure, closed.selection.axes)}
        assert (f"{path}.q_proj" in repeated) == full_scope


def test_an_encoder_gets_a_transducers_head_dense_or_cut() -> None:
    fields = {"vocab_size": 9, "blank_token_id": BLANK, "decoder_hidden_size": 6, "num_decoder_layers": 1}
    dense = tiny("parakeet_encoder", "base")
    small = cut(dense, make_selection(tiny_structure("parakeet_encoder", "base"), RAGGED))
    for encoder, stem in ((dense, ""), (small, "Secateur")):
        model = with_head(ModelView(encoder), "ForRNNT", fields, seed=0).model
        assert type(model).__name__ == f"{stem}ParakeetForRNNT"
        state = ModelView.of(model).encoder.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_every_head_of_a_layer_loses_the_same_dimensions() -> None:
    dense, path = tiny("parakeet_encoder", "base"), "layers.1.self_attn"
    small = cut(dense, Selection(axes={names.heads(path): (1, 3), names.shared_query_key(path): (0, 4)}))
    rows = dense.layers[1].self_attn.q_proj.weight.view(4, 6, -1)  # head, dimension
    assert torch.equal(small.layers[1].self_attn.q_proj.weight, rows[[1, 3]][:, [0, 4]].flatten(0, 1))
    biases = dense.layers[1].self_attn.bias_v
    assert torch.equal(small.layers[1].self_attn.bias_v, biases[[1, 3]][:, [0, 4]].flatten())
