"""Scopes of a cost, counted by hand from the parameters' names."""

from __future__ import annotations

import pytest
import torch
from support import MODELS, tiny, tiny_structure

import wav2vec2_axes as names
from secateur.cost import Cost, Terms, breakdown
from secateur.errors import ConfigError
from secateur.structure import Selection

#: The family whose stock class has a positional convolution that it does not use.
CALLED_NEVER = "wav2vec2-conformer"


@pytest.mark.parametrize(("family", "size"), MODELS)
@pytest.mark.parametrize(
    ("scope", "prefix"),
    [
        ("whole", ""),
        ("encoder", "encoder."),
        ("frontend", None),
        ("encoder.layers.1", "encoder.layers.1."),
        ("feature_projection", "feature_projection."),
    ],
)
def test_a_scope_counts_the_parameters_below_its_path(family: str, size: str, scope: str, prefix: str | None) -> None:
    model, terms = tiny(family, size), Terms(tiny_structure(family, size))
    if prefix is None:
        prefix = "feature_projection." if family == "wav2vec2-bert" else "feature_extractor."
    counted = {
        n: p for n, p in model.named_parameters() if (family, n[:22]) != (CALLED_NEVER, "encoder.pos_conv_embed")
    }
    expected = sum(p.numel() for name, p in counted.items() if name.startswith(prefix))
    assert Cost.from_terms(terms, cost="parameters", scope=scope).dense == expected


def test_layer_one_is_not_layer_ten() -> None:
    from transformers import HubertConfig

    from secateur.hf.declare import declare

    terms = Terms(declare(HubertConfig()))
    first_item, eleven = (Cost.from_terms(terms, cost="parameters", scope=f"encoder.layers.{i}").dense for i in (1, 11))
    assert first_item == eleven == 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768


def test_gated_scope_counts_only_matrices_on_gated_axes() -> None:
    structure = tiny_structure("hubert", "base")
    gated = frozenset(axis.name for axis in structure.axes_of_kinds(("units",)))
    cost = Cost.from_terms(Terms(structure), cost="parameters", scope="gated", gated=gated)
    assert cost.dense == 3 * 2 * 24 * 10
    fewer = Selection(axes={names.feed_forward_units(0): (1, 2, 3)})
    assert cost.count(fewer) == cost.dense - 2 * 24 * 7


def test_the_label_prints_cost_scope_length_and_convention() -> None:
    label = Cost.from_terms(Terms(tiny_structure("hubert", "base")), cost="macs", samples=1600).label
    assert label.startswith("macs of scope whole at 1600 samples; ")
    assert "left out" in label


def test_a_scope_that_names_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no part of this hubert model"):
        Cost.from_terms(Terms(tiny_structure("hubert", "base")), cost="parameters", scope="decoder")


def test_blocks_add_up_to_the_whole() -> None:
    table = breakdown(tiny_structure("wavlm", "large"), samples=16000)
    terms = Terms(tiny_structure("wavlm", "large"))
    for cost, total in (("parameters", table.parameters), ("macs", table.macs)):
        assert sum(getattr(block, cost) for block in table.blocks.values()) == total
        for scope, costs in table.scopes.items():
            assert costs[cost] == Cost.from_terms(terms, cost=cost, scope=scope, samples=16000).dense, scope
    assert table.to_dict()["frames"] == table.frames == 100


def test_a_gradient_reaches_every_unit_whose_closing_saves_something() -> None:
    structure = tiny_structure("wavlm", "base")
    probability = torch.full((structure.size,), 0.9, dtype=torch.float64, requires_grad=True)
    Cost.from_terms(Terms(structure), cost="parameters").expected(probability).backward()
    assert probability.grad is not None
    assert bool((probability.grad > 0).all())
