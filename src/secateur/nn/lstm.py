"""Predictor of a cut transducer, with different widths of the embedding and of the LSTM layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class UnevenLSTM(nn.Module):
    """LSTM with layers of different widths, which reads the weights at every pass.

    Like `nn.LSTM` with `batch_first` and with the same parameter names, but masks on the weights take effect: torch's
    class keeps a list of the weights that it was built with. Hidden and cell states are one tensor each, as wide as the
    widest layer and zero beyond the width of a narrower layer, so that they fit the library's cache.

    Example with widths (4, 2): ``states[1, :, 2:]`` is zero.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        """
        Args:
            in_features: Size of the input vectors.
            widths: Hidden units of each layer.
        """
        super().__init__()
        self.widths = tuple(widths)
        for layer, width in enumerate(self.widths):
            # Input, forget, cell and output gate, one behind the other: 4 * width rows.
            shapes = (4 * width, in_features), (4 * width, width), (4 * width,), (4 * width,)
            for name, shape in zip(_WEIGHT_NAMES, shapes, strict=True):
                initial = torch.empty(shape).uniform_(-(width**-0.5), width**-0.5)  # as `nn.LSTM` initializes
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(initial))
            in_features = width

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM) -> UnevenLSTM:
        """Return the LSTM that shares the parameters of `lstm`."""
        assert (lstm.batch_first, lstm.bias, lstm.bidirectional) == (True, True, False)
        assert (lstm.dropout, lstm.proj_size) == (0.0, 0)
        with torch.device("meta"):
            lstm_copy = cls(lstm.input_size, [lstm.hidden_size] * lstm.num_layers)
        for name, parameter in lstm.named_parameters():
            setattr(lstm_copy, name, parameter)
        lstm_copy.training = lstm.training
        return lstm_copy

    def forward(
        self, values: Tensor, states: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the outputs of the last layer, and the states after the last token.

        Args:
            values: (B, U, in_features).
            states: Initial hidden and cell states, (layers, B, widest) each; None for zeros.

        Returns:
            (B, U, width of the last layer), and the final hidden and cell states, (layers, B, widest) each.
        """
        widest = max(self.widths)
        if states is None:
            zeros = values.new_zeros(len(self.widths), len(values), widest)
            states = zeros, zeros
        final_states: tuple[list[Tensor], list[Tensor]] = [], []
        for layer, width in enumerate(self.widths):
            weights = [getattr(self, f"{name}_l{layer}") for name in _WEIGHT_NAMES]
            # (layers, B, widest) -> (1, B, width)
            initial_states = [state[layer : layer + 1, :, :width].contiguous() for state in states]
            values, *layer_states = torch.lstm(
                values, initial_states, weights, True, 1, 0.0, self.training, False, True
            )
            for states_list, state in zip(final_states, layer_states, strict=True):
                states_list.append(F.pad(state, (0, widest - width)))  # (1, B, width) -> (1, B, widest)
        return values, (torch.cat(final_states[0]), torch.cat(final_states[1]))


class CutPredictor(nn.Module):
    """Predictor of a transducer with different widths, and with the parameter names of the stock classes."""

    def __init__(self, config: Any, *, embedding_width: int, layer_widths: Sequence[int], joiner_width: int) -> None:
        """
        Args:
            config: Config of the model (`vocab_size`, `blank_token_id`).
            embedding_width: Dimensions of the embedding of tokens.
            layer_widths: Hidden units of each LSTM layer.
            joiner_width: Dimensions of the output, which the joiner adds to the encoder's.
        """
        super().__init__()
        self.blank_token_id = config.blank_token_id
        self.embedding = nn.Embedding(config.vocab_size, embedding_width)
        self.lstm = UnevenLSTM(embedding_width, layer_widths)
        self.decoder_projector = nn.Linear(layer_widths[-1], joiner_width)

    def forward(self, input_ids: Tensor, cache: Any = None) -> Tensor:
        """Return the predictor's output for the tokens so far.

        Args:
            input_ids: (B, U), or (B, 1) while decoding.
            cache: The library's cache of the states and of the output after the last token that was no blank, changed
                in place. A row whose new token is a blank keeps its entries.

        Returns:
            (B, U, joiner_width).
        """
        if cache is None:
            return self._predict(input_ids, None)[0]
        is_token = input_ids[:, -1] != self.blank_token_id  # (B,)
        was_initialized = cache.is_initialized
        if not was_initialized:
            self._init_cache(cache, input_ids)
        elif not is_token.any():
            return cache.cache  # type: ignore[no-any-return]
        output, hidden, cells = self._predict(input_ids, (cache.hidden_state, cache.cell_state))
        cache.update(output, hidden, cells, mask=is_token if was_initialized else None)
        return cache.cache  # type: ignore[no-any-return]

    def _predict(self, tokens: Tensor, states: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        values, (hidden, cells) = self.lstm(self.embedding(tokens), states)
        return self.decoder_projector(values), hidden, cells

    def _init_cache(self, cache: Any, input_ids: Tensor) -> None:
        """Fill a new cache with zeros in the widths of the predictor; the library would take widths of the config."""
        width, dtype = self.decoder_projector.out_features, self.decoder_projector.weight.dtype
        zeros = partial(torch.zeros, dtype=dtype, device=input_ids.device)  # the weights may be offloaded
        states_shape = len(self.lstm.widths), len(input_ids), max(self.lstm.widths)
        cache.cache = zeros(len(input_ids), 1, width)
        cache.hidden_state = zeros(states_shape)
        cache.cell_state = zeros(states_shape)
        cache.is_initialized = True
