"""The masked model of full size and the cut model give the same numbers, whatever the family and the selection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    LOW_RANK,
    MODELS,
    TOLERANCE,
    Plan,
    audio,
    difference,
    make_selection,
    outputs,
    plans,
    tiny,
    tiny_structure,
)

from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.masking import attach, mask_values
from secateur.structure import Selection, factorizations_to_merge, normalize
from secateur.surgery import cut

ENDINGS = ("Model", "ForCTC", "ForSequenceClassification")
BATCHES = ((1600,), (70, 71), (2400, 2400), (3100, 990, 75))


def check(
    family: str, size: str, selection: Selection, ending: str, lengths: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Compare every hidden state and the output, head included."""
    dense, structure = tiny(family, size, ending, dtype), tiny_structure(family, size)
    closed = normalize(structure, selection).selection
    small = cut(dense, selection)
    values, mask = audio(lengths, dtype)
    masking = attach(ModelView.of(dense).encoder, structure)
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
    for index, (left_item, right) in enumerate(pairs):
        assert difference(left_item, right) <= TOLERANCE[dtype], f"output {index} of {len(pairs)}"
    for extra in masked[len(actual_outputs) - 1 : -1]:  # behind trimmed layers the masked model repeats its last state
        assert torch.equal(extra, masked[len(actual_outputs) - 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
@given(plan=plans(ragged=True), ending=st.sampled_from(ENDINGS), lengths=st.sampled_from(BATCHES))
def test_masked_equals_shrunk_for_ragged_selections(
    family: str, size: str, dtype: torch.dtype, plan: Plan, ending: str, lengths: tuple[int, ...]
) -> None:
    check(family, size, make_selection(tiny_structure(family, size), plan), ending, lengths, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
@given(plan=plans(ragged=False), ending=st.sampled_from(ENDINGS), lengths=st.sampled_from(BATCHES))
def test_masked_equals_shrunk_for_any_selection(
    family: str, size: str, dtype: torch.dtype, plan: Plan, ending: str, lengths: tuple[int, ...]
) -> None:
    check(family, size, make_selection(tiny_structure(family, size), plan), ending, lengths, dtype)


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
def test_the_structure_of_a_cut_model_is_that_of_its_selection(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    plan = Plan(
        seed=5,
        channels=("some", "one", "some"),
        attention=("removed", "ragged", "heads"),
        feed_forward=("units", "removed", "dead"),
        trimmed=0,
        scales=True,
    )
    closed = normalize(structure, make_selection(structure, plan)).selection
    small = cut(tiny(family, size), closed)
    repeated = declare(small.config)
    expected = dict(closed.axes)
    for name in {each.axis for each in factorizations_to_merge(structure, closed.axes)}:
        del expected[name]
    for linear in structure.factorizations:  # where the map is gone
        if not closed.axes[linear.axis]:
            del expected[linear.axis]
    assert {name: tuple(sorted(axis.units)) for name, axis in repeated.axes.items()} == expected
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert shapes == {weight.name: weight.shape for weight in repeated.weights}
