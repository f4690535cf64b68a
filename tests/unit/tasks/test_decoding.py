"""Greedy decoding of transducers, against a loop over frames, and chunk by chunk against whole utterances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transducer_toy import MELS, features, frames, transducer

from secateur.errors import ConfigError, ModelError
from secateur.tasks.decoding import greedy, pad_to_chunks, stream


def rows(tokens: Tensor, blank: int = 11) -> list[list[int]]:
    return [[token for token in row if token != blank] for row in tokens.tolist()]


@torch.no_grad()
def by_hand(model: Any, hidden_states: Tensor) -> list[int]:
    """Return the greedy tokens for the frames of an utterance, (T, D), with a limit of tokens in a frame."""
    written_lines: list[int] = []
    for frame in model.encoder_projector(hidden_states):
        for _ in range(model.config.max_symbols_per_step):
            decoder_states = model.decoder(torch.tensor([[11, *written_lines]]))[0, -1]
            token = int(model.joint(encoder_hidden_states=frame, decoder_hidden_states=decoder_states).argmax())
            if token == 11:
                break
            written_lines.append(token)
    return written_lines


@pytest.mark.parametrize("streaming", [False, True])
def test_greedy_decoding_of_a_padded_batch_is_a_loop_over_each_utterances_frames(streaming: bool) -> None:
    model, inputs = transducer(streaming=streaming), features(200, 60, 131, seed=3)
    with torch.no_grad():
        hidden_states = model.encoder(**inputs).last_hidden_state
    expected = [
        by_hand(model, row[:count]) for row, count in zip(hidden_states, frames(model, inputs).tolist(), strict=True)
    ]
    assert rows(greedy(model, inputs)) == expected
    assert len({token for row in expected for token in row}) > 2
    assert all(expected)


def test_the_last_frame_is_written_even_when_every_frame_is_full() -> None:
    """The library's own limit on the length counts the token that decoding starts from."""
    model = transducer()
    with torch.no_grad():
        model.joint.head.bias[11] = -1e4
    assert [len(row) for row in rows(greedy(model, features(60)))] == [8 * 3]


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_chunk_by_chunk_the_same_is_written_as_offline_on_fifty_utterances(lookahead: int) -> None:
    model = transducer(streaming=True)
    lengths = torch.randint(5, 140, (50,), generator=torch.Generator().manual_seed(lookahead)).tolist()
    visited = 0
    for number, length in enumerate(lengths):
        values = features(length, seed=number)["input_features"]
        full_result = pad_to_chunks(model, values, lookahead=lookahead)
        with torch.no_grad():
            hidden_states = model.encoder(full_result, num_lookahead_tokens=lookahead).last_hidden_state[0]
        streamed = rows(stream(model, {"input_features": values}, lookahead=lookahead))[0]
        assert streamed == by_hand(model, hidden_states[: int(frames(model, {"input_features": values}))])
        visited += len(streamed)
    assert visited > 50 * 3


def test_offline_decoding_of_whole_chunks_is_what_streaming_writes() -> None:
    model = transducer(streaming=True)
    for lookahead in (0, 3):
        inputs = features(1 + 8 * lookahead + 40 * (lookahead + 1))  # five chunks behind the first
        assert torch.equal(
            pad_to_chunks(model, inputs["input_features"], lookahead=lookahead), inputs["input_features"]
        )
        offline = rows(greedy(model, inputs, lookahead=lookahead))
        assert rows(stream(model, inputs, lookahead=lookahead)) == offline != [[]]


def test_chunks_begin_with_one_position_and_the_last_is_filled_up() -> None:
    model = transducer(streaming=True)
    for positions, expected in ((1, 9), (9, 9), (10, 25), (25, 25), (26, 41)):  # 1 + 8, then 16 each
        assert pad_to_chunks(model, torch.ones(1, positions, MELS), lookahead=1).shape[1] == expected


def test_streaming_is_refused_where_it_cannot_be() -> None:
    values = features(60)
    with pytest.raises(ModelError, match="A ParakeetForRNNT cannot stream, because it takes whole utterances"):
        stream(transducer(), values, lookahead=1)
    with pytest.raises(ConfigError, match="lookahead: got -1, expected 0 or more"):
        stream(transducer(streaming=True), values, lookahead=-1)
