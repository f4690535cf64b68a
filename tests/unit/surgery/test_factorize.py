"""Factorising a model: the same function, which maps are named, break-even, choosing ranks by size, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import HEAD_DIM, HEADS, MODELS, TOLERANCE, UNITS, audio, difference, outputs, tiny, tiny_structure

from secateur.cost import Cost, Terms
from secateur.errors import ConfigError, SelectionError
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.structure import Selection, normalize
from secateur.structure import axis as names
from secateur.surgery import cut
from secateur.surgery.choose import choose_uniform_share
from secateur.surgery.factorize import factorize, max_ranks_by_path, resolve_ranks
from secateur.surgery.importance import magnitude_scores
from secateur.surgery.limits import CostLimit

WIDTH = HEADS * HEAD_DIM
QUERY = "encoder.layers.0.attention.q_proj"


def query_only(**changes: Any) -> Any:
    """A tiny model whose first query projection is factorised."""
    return factorize(tiny("hubert", "base", dtype=torch.float64), {QUERY: WIDTH, **changes})


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_a_model_of_all_ranks_computes_what_the_stock_model_computes(family: str, size: str) -> None:
    dense = tiny(family, size, dtype=torch.float64)
    actual = factorize(dense, max_ranks_by_path(tiny_structure(family, size)))
    values, mask = audio((3100, 990, 75), torch.float64)
    result = [
        difference(a, b) for a, b in zip(outputs(dense, values, mask), outputs(actual, values, mask), strict=True)
    ]
    assert max(result) <= TOLERANCE[torch.float64]


def test_names_are_paths_or_their_last_words_and_starts_are_full_break_even_or_a_number() -> None:
    structure = tiny_structure("hubert", "base")
    assert resolve_ranks(structure, ["q_proj"]) == {f"encoder.layers.{i}.attention.q_proj": WIDTH for i in range(3)}
    assert resolve_ranks(structure, [QUERY], 5) == {QUERY: 5}
    even = resolve_ranks(structure, [QUERY, "layers.1.feed_forward.output_dense"], "break_even")
    assert list(even.values()) == [WIDTH * WIDTH // (2 * WIDTH), UNITS * WIDTH // (UNITS + WIDTH)]


@pytest.mark.parametrize(
    ("linears", "start", "message"),
    [
        (["q_pro"], "full", r"there is no 'q_pro' in this hubert model; .* Did you mean 'q_proj'\?"),
        (["layer_norm"], "full", "'layer_norm' is no linear map of this hubert model; allowed are projection, q_proj"),
        (["conv"], "full", "'conv' is no linear map"),
        ([QUERY], 25, r"got 25, but 'encoder\.layers\.0\.attention\.q_proj' has 24 ranks: .* from 1 to 24"),
    ],
)
def test_a_name_that_cannot_be_factorized_raises_a_one_sentence_error(
    linears: list[str], start: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_ranks(tiny_structure("hubert", "base"), linears, start)


def test_a_map_is_not_factorised_twice() -> None:
    structure = declare(query_only().config)
    with pytest.raises(ConfigError, match="factorised already"):
        resolve_ranks(structure, [QUERY])
    assert QUERY not in resolve_ranks(structure, ["k_proj"])


@pytest.mark.parametrize(("kept", "matrices"), [(11, 2), (12, 1), (24, 1)])
def test_twelve_of_twenty_four_ranks_are_no_cheaper_than_the_dense_matrix(kept: int, matrices: int) -> None:
    model = query_only()
    structure, selection = declare(model.config), Selection(axes={names.ranks(QUERY): tuple(range(kept))})
    small, notes = cut(model, selection), normalize(structure, selection).adjustments
    weights = [p for name, p in small.named_parameters() if name.startswith(QUERY) and name.endswith("weight")]
    assert len(weights) == matrices
    assert sum(weight.numel() for weight in weights) == (kept * 2 * WIDTH if matrices == 2 else WIDTH * WIDTH)
    assert notes == (() if matrices == 2 else (f"no cheaper as two matrices, dense again: {QUERY}",))
    assert names.ranks(QUERY) in declare(small.config).axes or matrices == 1


def test_break_even_goes_by_what_other_axes_leave() -> None:
    block = "encoder.layers.0.feed_forward"
    path = f"{block}.output_dense"
    model = factorize(tiny("hubert", "base"), {path: UNITS})
    units, ranks = names.units(block), names.ranks(path)
    for selection, matrices in (((0, 1, 2), 1), (tuple(range(UNITS)), 2)):  # 3 ranks: 81 of 72, or 102 of 240 elements
        small = cut(model, Selection(axes={units: selection, ranks: (0, 1, 2)}))
        assert sum(n.startswith(f"{path}.") and n.endswith("weight") for n, _ in small.named_parameters()) == matrices


def test_break_even_of_heads_of_one_width_goes_by_the_heads_that_are_left() -> None:
    block = "layers.0.self_attn"
    path = f"{block}.q_proj"
    model = factorize(tiny("parakeet_encoder", "base"), {path: WIDTH})
    structure = declare(model.config)
    for heads, matrices in ((1, 1), (4, 2)):  # 8 ranks: 240 of 144 elements, or 384 of 576
        axes = {f"{block}/heads": tuple(range(heads)), names.ranks(path): tuple(range(8))}
        small = cut(model, Selection(axes=axes))
        assert sum(n.startswith(f"{path}.") and n.endswith("weight") for n, _ in small.named_parameters()) == matrices
        counted = Cost.from_terms(Terms(structure), cost="parameters").count(
            normalize(structure, Selection(axes=axes)).selection
        )
        assert counted == sum(p.numel() for p in small.parameters())


def test_ranks_chosen_by_magnitude_are_a_truncated_singular_value_decomposition() -> None:
    dense = tiny("hubert", "base", dtype=torch.float64)
    model = factorize(
        dense, resolve_ranks(tiny_structure("hubert", "base"), ["q_proj", "k_proj", "v_proj", "out_proj"])
    )
    structure = declare(model.config)
    limit = CostLimit(name="parameters", cost=Cost.from_terms(Terms(structure), cost="parameters"), share=0.7)
    choice = choose_uniform_share(structure, magnitude_scores(ModelView(model), structure), ["rank"], [limit])
    small = cut(model, choice.selection)
    assert sum(p.numel() for p in small.parameters()) == choice.counted_costs["parameters"] <= 0.7 * limit.cost.dense
    assert limit.cost.dense == sum(p.numel() for p in dense.parameters())
    for linear in structure.factorizations:
        selection = len(choice.selection.axes[linear.axis])
        weight, remaining = dense.get_submodule(linear.module).weight.detach(), small.get_submodule(linear.module)
        assert selection < WIDTH // 2
        values = np.linalg.svd(weight.numpy(), compute_uv=False)
        error = float((remaining.outer.weight @ remaining.inner.weight - weight).detach().square().sum())
        assert error == pytest.approx(float((values[selection:] ** 2).sum()), rel=1e-9)


def test_a_map_that_goes_back_to_one_matrix_keeps_all_that_costs_nothing() -> None:
    model = query_only()
    structure = declare(model.config)
    limit = CostLimit(name="parameters", cost=Cost.from_terms(Terms(structure), cost="parameters"), share=1.0)
    choice = choose_uniform_share(structure, magnitude_scores(ModelView(model), structure), ["rank"], [limit])
    remaining = cut(model, choice.selection).get_submodule(QUERY).weight
    dense = tiny("hubert", "base", dtype=torch.float64).get_submodule(QUERY).weight
    torch.testing.assert_close(remaining, dense, rtol=0, atol=1e-12)


def test_ranks_of_a_model_that_has_none_and_a_stock_layout_are_refused() -> None:
    selection = Selection(axes={names.ranks(QUERY): (0, 1)})
    with pytest.raises(SelectionError, match=r"q_proj' of this hubert model is one matrix: only a factorized map"):
        cut(tiny("hubert", "base"), selection)
    with pytest.raises(SelectionError, match=r"does not fit the stock layout: .*q_proj is two matrices"):
        cut(query_only(), selection, layout="stock")
