"""Keys of relative positions against the library's shift, and how long those of a stream are kept."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from support import tiny
from torch import Tensor, nn
from transformers import DynamicCache

from secateur.nn import relative_keys as module
from secateur.nn.relative_keys import relative_keys, relative_shift
from secateur.structure import Selection
from secateur.surgery import cut


class Counted(nn.Linear):
    """A linear map that counts its rows."""

    rows = 0

    def forward(self, values: Tensor) -> Tensor:
        """As a linear map."""
        self.rows += values.shape[:-1].numel()
        return super().forward(values)


def block() -> Counted:
    return Counted(4, 6, bias=False).eval()


@pytest.mark.parametrize(("time", "length"), [(1, 1), (1, 5), (3, 5), (5, 5)])
def test_logits_of_the_distances_that_occur_are_the_librarys_of_all(time: int, length: int) -> None:
    linear, positions, query = block(), torch.randn(1, 2 * length - 1, 4).expand(2, -1, -1), torch.randn(2, 1, time, 6)
    keys = relative_keys(linear, linear, positions, time=time, stream=None)
    actual = relative_shift(query @ keys[:, None].transpose(2, 3))[..., :length]
    stock = tiny("nemotron_asr_streaming_encoder", "base").layers[0].self_attn
    reference = stock._rel_shift(query @ linear(positions)[:, None].transpose(2, 3))[..., :length]
    torch.testing.assert_close(actual, reference)
    assert keys.shape == (1, length + time - 1, 6)


def test_the_rows_of_a_batch_are_apart_while_training_because_of_dropout() -> None:
    linear, positions = block().train(), torch.randn(2, 9, 4)
    assert torch.equal(relative_keys(linear, linear, positions, time=5, stream=None), linear(positions))


def test_keys_are_made_once_for_a_stream_and_anew_when_it_has_grown_or_its_chunks_have() -> None:
    linear, stream = block(), DynamicCache()
    steps = [(5, 1, 5), (5, 1, 0), (6, 1, 6), (5, 2, 6), (5, 2, 0)]  # frames attended to, frames, rows made
    for length, time, rows in steps:
        initial, positions = linear.rows, torch.randn(2, 2 * length - 1, 4)
        with torch.no_grad():
            relative_keys(linear, linear, positions, time=time, stream=stream)
        assert linear.rows - initial == rows


def test_another_stream_and_a_copy_of_the_block_have_keys_of_their_own_and_gradients_none() -> None:
    linear, stream, positions = block(), DynamicCache(), torch.randn(1, 9, 4)
    with torch.no_grad():
        relative_keys(linear, linear, positions, time=1, stream=stream)
        other_value = copy.deepcopy(linear)
        other_value.weight.fill_(2.0)
        assert torch.equal(
            relative_keys(other_value, other_value, positions, time=1, stream=stream), other_value(positions[:, :5])
        )
        initial = linear.rows
        relative_keys(linear, linear, positions, time=1, stream=DynamicCache())
        assert linear.rows == initial + 5
    assert relative_keys(linear, linear, positions, time=1, stream=stream).requires_grad


def test_nothing_is_left_of_a_stream_that_has_ended() -> None:
    model = cut(tiny("nemotron_asr_streaming_encoder", "base"), Selection(axes={}))
    gc.collect()
    initial = len(module._STREAM_CACHES)
    with torch.no_grad():
        result = model(torch.randn(1, 1, 16), use_cache=True, num_lookahead_tokens=0)
    assert len(module._STREAM_CACHES) == initial + 1
    del result
    gc.collect()
    assert len(module._STREAM_CACHES) == initial
