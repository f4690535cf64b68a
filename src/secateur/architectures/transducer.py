"""The head of a transducer (RNN-T, TDT): a predictor of unequal widths, and how stock models follow its shape.

The library's classes have one width for the embedding of tokens, every layer of the LSTM, and the sum of encoder and
predictor that the joiner takes. Here each of them has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.architectures import stock_layout
from secateur.structure import axis as names
from secateur.structure.encoder_shape import parse_kept_units
from secateur.structure.structure import TRANSDUCER

#: Endings of the classes with such a head, and the paths of its parts.
TRANSDUCER_HEAD_CLASSES = ("ForRNNT", "ForTDT")
HEAD_PARTS = ("encoder_projector", "decoder", "joint")
EMBEDDING, LSTM, PROJECTOR, OUTPUT = "decoder.embedding", "decoder.lstm", "decoder.decoder_projector", "joint.head"

#: Config fields whose original values a cut config remembers.
ORIGINAL_FIELDS = ("decoder_hidden_size", "num_decoder_layers")
_WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """All that pruning can change of a transducer's head, in original indices.

    Attributes:
        width: Of every part of the original model.
        layers: Of its LSTM; none goes.
        axes: Kept units of the axes that are not whole.
    """

    width: int
    layers: int
    axes: Mapping[str, tuple[int, ...]]

    @classmethod
    def from_config(cls, config: Any) -> HeadShape:
        """That of a config, stock or cut."""
        record, original = getattr(config, "secateur", None) or {}, original_of(config)
        axes = parse_kept_units(record)
        return cls(width=original["decoder_hidden_size"], layers=original["num_decoder_layers"], axes=axes)

    @property
    def predictor(self) -> tuple[str, ...]:
        """Axes of the predictor in the order of the data: the embedding's, then each layer's."""
        return names.predictor_embedding(EMBEDDING), *(
            names.predictor_layer(LSTM, layer) for layer in range(self.layers)
        )

    @property
    def joiner(self) -> str:
        """The axis of the joiner."""
        return names.joiner("joint")

    def units(self, name: str) -> tuple[int, ...]:
        """Units that an axis still has."""
        return self.axes.get(name, tuple(range(self.width)))


def is_of_head(scope: str) -> bool:
    """Whether a scope of costs is of a transducer's head, and not of its encoder."""
    return scope == TRANSDUCER or scope.partition(".")[0] in HEAD_PARTS


def original_of(config: Any) -> dict[str, int]:
    """The dense head's remembered config fields."""
    record = getattr(config, "secateur", None) or {}
    return record.get("original") or {name: getattr(config, name) for name in ORIGINAL_FIELDS}


def stock_width(shape: HeadShape) -> int:
    """The one width that stock classes would have a head with.

    Raises:
        SelectionError: Its parts are of several.
    """
    widths = [len(shape.units(name)) for name in (*shape.predictor, shape.joiner)]
    obstacle = f"widths of predictor and joiner differ: {', '.join(map(str, widths))}"
    stock_layout.raise_if_obstacle(obstacle if len(set(widths)) > 1 else "")
    return widths[0]


class UnevenLSTM(nn.Module):
    """An LSTM whose layers have each their own width, and whose weights are read anew in every pass.

    Like `nn.LSTM` with `batch_first`, with its parameter names, but masks on its weights are seen: torch's own class
    keeps a list of the weights that it was made with. The states of all layers are one tensor as wide as the widest
    layer, (layers, B, widest), with zeros behind those of narrower ones, so that they fit the library's cache.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        """
        Args:
            inputs: Features in.
            widths: Hidden units of each layer.
        """
        super().__init__()
        self.widths = tuple(widths)
        for layer, width in enumerate(self.widths):
            shapes = (4 * width, in_features), (4 * width, width), (4 * width,), (4 * width,)
            for name, shape in zip(_WEIGHT_NAMES, shapes, strict=True):
                initial = torch.empty(shape).uniform_(-(width**-0.5), width**-0.5)  # as torch's own begins
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(initial))
            in_features = width

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM) -> UnevenLSTM:
        """The same LSTM, sharing its parameters."""
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
        """The last layer's outputs, and the states behind the last token.

        Args:
            values: (B, U, inputs).
            states: Hidden and cell states to begin with, (layers, B, widest) each; None for zeros.

        Returns:
            (B, U, width), and hidden and cell states, (layers, B, widest) each.
        """
        widest = max(self.widths)
        if states is None:
            zeros = values.new_zeros(len(self.widths), len(values), widest)
            states = zeros, zeros
        final_states: tuple[list[Tensor], list[Tensor]] = [], []
        for layer, width in enumerate(self.widths):
            weights = [getattr(self, f"{name}_l{layer}") for name in _WEIGHT_NAMES]
            initial_states = [state[layer : layer + 1, :, :width].contiguous() for state in states]
            values, *layer_states = torch.lstm(
                values, initial_states, weights, True, 1, 0.0, self.training, False, True
            )
            for states_list, state in zip(final_states, layer_states, strict=True):
                states_list.append(F.pad(state, (0, widest - width)))
        return values, (torch.cat(final_states[0]), torch.cat(final_states[1]))


class CutPredictor(nn.Module):
    """The predictor of a transducer with unequal widths; parameter names are those of the stock classes."""

    def __init__(self, config: Any, shape: HeadShape) -> None:
        """
        Args:
            config: Config of the model.
            shape: Of the head.
        """
        super().__init__()
        embedding_width, *widths = (len(shape.units(name)) for name in shape.predictor)
        self.blank_token_id = config.blank_token_id
        self.embedding = nn.Embedding(config.vocab_size, embedding_width)
        self.lstm = UnevenLSTM(embedding_width, widths)
        self.decoder_projector = nn.Linear(widths[-1], len(shape.units(shape.joiner)))

    def forward(self, input_ids: Tensor, cache: Any = None) -> Tensor:
        """What the joiner takes of the tokens so far.

        Args:
            input_ids: (B, U), or while decoding (B, 1).
            cache: The library's, with the states and what came of the last token that was no blank; changed in place.
                A row that has written a blank stays as it was.

        Returns:
            (B, U, width of the joiner).
        """
        if cache is None:
            return self._predict(input_ids, None)[0]
        is_token = input_ids[:, -1] != self.blank_token_id
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
        """Fill a new cache with zeros of our widths; the library's would have those of the config."""
        width, dtype = self.decoder_projector.out_features, self.decoder_projector.weight.dtype
        zeros = partial(torch.zeros, dtype=dtype, device=input_ids.device)  # the weights may be offloaded
        states = len(self.lstm.widths), len(input_ids), max(self.lstm.widths)
        cache.cache = zeros(len(input_ids), 1, width)
        cache.hidden_state, cache.cell_state = zeros(states), zeros(states)
        cache.is_initialized = True


def resize_transducer_head(model: Any, config: Any) -> None:
    """Replace the head of a freshly built transducer by one of the shape that its config says."""
    shape = HeadShape.from_config(config)
    width = len(shape.units(shape.joiner))
    model.encoder_projector = nn.Linear(config.encoder_config.hidden_size, width)
    model.decoder = CutPredictor(config, shape)
    model.joint.head = nn.Linear(width, model.joint.head.out_features)
