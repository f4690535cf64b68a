"""The sizes that the recipes' papers state, counted on the default configs."""

from __future__ import annotations

import torch
from transformers import HubertConfig, WavLMConfig

from secateur.cost import Cost, Terms
from secateur.hf.declare import declare
from secateur.structure import normalize
from secateur.surgery.choose import choose
from secateur.surgery.limits import CostLimit
from shapes import wang

FINE_GRAINED = ("qk", "vo", "units", "block")


def test_eighty_percent_of_wangs_gated_matrices_leaves_26_million_of_wavlm_base() -> None:
    structure = declare(WavLMConfig())
    terms = Terms(structure)
    gated = frozenset(axis.name for axis in structure.axes_of_kinds(FINE_GRAINED))
    matrices = Cost.from_terms(terms, cost="parameters", scope="gated", gated=gated)
    full_cost = Cost.from_terms(terms, cost="parameters")
    assert matrices.dense == 12 * (4 * 768 * 768 + 2 * 768 * 3072) == 84_934_656
    fixed = full_cost.dense - matrices.dense  # front end, positional conv, norms, biases
    assert fixed == 9_447_280
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.full((structure.size,), float("inf"))
        for name in gated:
            start, size = structure.offsets[name], structure.axes[name].size
            scores[start : start + size] = torch.randn(size, generator=generator) * 3 - 4
        choice = choose(
            structure, scores, torch.ones(structure.size), [CostLimit(name="gated", cost=matrices, share=0.2)]
        )
        assert 0.195 * matrices.dense <= choice.counted_costs["gated"] <= 0.2 * matrices.dense
        # With the biases of the removed units; the paper's 26.57 M counts from 94.70 M, 0.32 M more than HF's model.
        assert 25_900_000 <= full_cost.count(choice.selection) <= 26_440_000


def test_the_shape_that_is_measured_as_wangs_is_of_that_size() -> None:
    structure = declare(WavLMConfig())
    gated = frozenset(axis.name for axis in structure.axes_of_kinds(FINE_GRAINED))
    selection = normalize(structure, wang()).selection
    matrices, full_cost, macs = (
        Cost.from_terms(Terms(structure), cost="parameters", scope="gated", gated=gated),
        Cost.from_terms(Terms(structure), cost="parameters"),
        Cost.from_terms(Terms(structure), cost="macs"),
    )
    assert 0.195 * matrices.dense <= matrices.count(selection) <= 0.2 * matrices.dense
    assert 25_900_000 <= full_cost.count(selection) <= 26_440_000
    assert 1.9 <= macs.dense / macs.count(selection) <= 2.1  # by MACs, at one second


def test_dphuberts_quarter_of_hubert_base_is_its_published_size() -> None:
    structure = declare(HubertConfig())
    quarter = 0.25 * Cost.from_terms(Terms(structure), cost="parameters").dense
    # 23,585,946 in the released model, counted without masked_spec_embed.
    assert abs(quarter - 23_585_946) / 23_585_946 < 0.001
