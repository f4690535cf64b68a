"""Norms that leave padding out."""

from __future__ import annotations

import pytest
import torch
from pruning_toy import seeded_model
from support import FAST, audio, difference

from secateur.inference import for_inference
from secateur.nn.norm import replace_group_norm, set_valid_lengths

LENGTHS = (4000, 2501, 1777)


@pytest.mark.parametrize("family", [family for family in FAST if family != "data2vec-audio"])
@pytest.mark.parametrize("fast", [False, True])
def test_an_utterance_in_a_padded_batch_comes_out_as_it_would_alone(family: str, fast: bool) -> None:
    model = seeded_model(family, "base").double()
    replace_group_norm(model)
    model = for_inference(model) if fast else model
    values, mask = audio(LENGTHS, torch.float64)
    with torch.no_grad():
        set_valid_lengths(model, torch.tensor(LENGTHS))
        joint_result = model(values, attention_mask=mask)[0]
        set_valid_lengths(model, None)
        for row, length in enumerate(LENGTHS):
            single_result = model(values[row : row + 1, :length])[0][0]
            assert difference(single_result, joint_result[row, : len(single_result)]) < 1e-10


def test_without_lengths_it_is_the_stock_norm() -> None:
    stock, actual = seeded_model("hubert", "base"), seeded_model("hubert", "base")
    replace_group_norm(actual)
    values, mask = audio(LENGTHS)
    with torch.no_grad():
        assert torch.equal(stock(values, attention_mask=mask)[0], actual(values, attention_mask=mask)[0])
    assert stock.state_dict().keys() == actual.state_dict().keys()
