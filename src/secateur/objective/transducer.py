"""The transducer loss (RNN-T), from a whole tensor of logits or, for long audio, from what a joiner makes them of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.errors import ConfigError, DataError, SecateurError
from secateur.objective.lattice import log_likelihoods
from secateur.objective.piecewise import piecewise

_CACHED = 1 << 18  # logits whose probabilities exist at once on a CPU: 1 MB in float32, which stays in the cache
_HELD = 1 << 26  # and elsewhere, where many small pieces would take long to launch


class Joiner(Protocol):
    """Logits of what an encoder and a predictor say together; `transformers`' ``model.joint`` is one as it stands."""

    def __call__(self, *, encoder_hidden_states: Tensor, decoder_hidden_states: Tensor) -> Tensor:
        """(B, t, 1, D) of the encoder and (B, 1, U + 1, D) of the predictor to logits (B, t, U + 1, V)."""


def losses(logits: Tensor, frames: Tensor, scripts: Sequence[Sequence[int]], *, blank: int) -> Tensor:
    """Negative log-likelihood of each utterance's script in nats, (B,), in float32 or better.

    The standard transducer: a blank advances the frame, a token is written without leaving it, and a blank in the last
    frame after the last token ends. So any script can be written in any number of frames but none. Where the logits
    leave no path (minus infinity for a token in every frame) the loss is infinite and its gradient zero. Logits beyond
    a row's frames or tokens play no part.

    Like CTC (`blanks`), but the logits depend on the tokens so far, and a frame may write several.

    Args:
        logits: (B, T, U + 1, V) for the longest script of U tokens: in frame t after u tokens; before any softmax.
        frames: (B,), valid frames of each row, 1 to T.
        scripts: B sequences of token numbers without blanks; they may be empty.
        blank: Number of the blank, 0 to V - 1.

    Raises:
        DataError: A row has no frames, or more than there are; a token is outside the vocabulary, or is the blank.
        ConfigError: The blank is outside the vocabulary.
        SecateurError: Shapes that do not belong together.

    Source: Graves 2012, arXiv 1211.3711, Eq. 12 to 20. Differs from the paper: the softmax is over whatever the joiner
    gives, not over a sum of two networks' outputs.
    """
    rows, there, width, _ = logits.shape
    script = _Script.of(frames, scripts, blank=blank, shape=(rows, there, width), device=logits.device)
    return script.losses(*script.emissions(logits))


def fused_losses(
    joiner: Joiner,
    encoder: Tensor,
    predictor: Tensor,
    frames: Tensor,
    scripts: Sequence[Sequence[int]],
    *,
    blank: int,
    at_once: int = 1 << 12,
) -> Tensor:
    """`losses` of the joiner's logits, with gradients to encoder, predictor and the joiner's parameters: (B,).

    The logits of all frames never exist together: they are made for some frames at a time, reduced to the two that
    matter (the blank and the next token), and made again in the backward pass, which costs one more forward pass of the
    joiner, with the same random numbers. Beside one piece there are a few numbers for each frame and token.

    Args:
        joiner: Its logits in a frame may depend on no other frame, and on parameters or other leaves, not on what was
            computed from them outside.
        encoder: (B, T, D), what the joiner takes of the encoder.
        predictor: (B, U + 1, D), what it takes of the predictor after 0 to U tokens.
        frames: (B,), valid frames of each row, 1 to T.
        scripts: B sequences of token numbers without blanks; they may be empty.
        blank: Number of the blank, 0 to V - 1.
        at_once: Pairs of frame and token, over the batch, whose V logits exist together; those of one frame always do.
            An accelerator likes more of them.

    Raises:
        DataError: As `losses`.
        ConfigError: As `losses`, or `at_once` is below 1.
        SecateurError: As `losses`.
    """
    if at_once < 1:
        raise ConfigError(f"at_once: got {at_once}, allowed is 1 or more.")
    (rows, there, _), width = encoder.shape, predictor.shape[1]
    if len(predictor) != rows:
        raise SecateurError(f"predictor: got {len(predictor)} rows, allowed are the encoder's {rows}.")
    script = _Script.of(frames, scripts, blank=blank, shape=(rows, there, width), device=encoder.device)

    def reduced(heard: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        logits = joiner(encoder_hidden_states=heard[:, :, None], decoder_hidden_states=said[:, None])
        return script.emissions(logits)

    size = max(1, at_once // (rows * width))
    return script.losses(*piecewise(reduced, encoder[:, : script.longest], predictor, size=size))


@dataclass(frozen=True, kw_only=True)
class _Script:
    """What a batch is to write.

    Attributes:
        frames: (B,), valid frames of each row; the most of them are `longest`.
        lengths: (B,), tokens of each row.
        following: (B, U + 1), the token that is next after 0 to U of them; the blank where there is none.
        largest: The largest number of a token or the blank.
    """

    frames: Tensor
    longest: int
    lengths: Tensor
    following: Tensor
    largest: int
    blank: int

    @classmethod
    def of(
        cls,
        frames: Tensor,
        scripts: Sequence[Sequence[int]],
        *,
        blank: int,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> _Script:
        """Checked against the shape (B, T, U + 1) of the lattice."""
        rows, there, width = shape
        valid = frames.tolist()
        if not rows == len(valid) == len(scripts):
            raise SecateurError(f"got {len(valid)} numbers of frames and {len(scripts)} scripts for {rows} rows.")
        for row, count in enumerate(valid):
            if not 1 <= count <= there:
                raise DataError(f"frames: got {count} in row {row}, allowed is 1 to {there}.")
        if blank < 0:
            raise ConfigError(f"blank: got {blank}, allowed is 0 or more.")
        for row, script in enumerate(scripts):
            wrong = next((token for token in script if token < 0 or token == blank), None)
            if wrong is not None:
                raise DataError(f"scripts: got {wrong} in row {row}, allowed is 0 or more, and not the blank, {blank}.")
        lengths = [len(script) for script in scripts]
        if max(lengths) + 1 != width:
            raise SecateurError(
                f"got outputs for {width - 1} tokens, allowed is as many as the longest script has: {max(lengths)}."
            )
        padded = [[*script, *[blank] * (width - len(script))] for script in scripts]
        return cls(
            frames=torch.tensor(valid, device=device),
            longest=max(valid),
            lengths=torch.tensor(lengths, device=device),
            following=torch.tensor(padded, device=device),
            largest=max(map(max, padded)),
            blank=blank,
        )

    def emissions(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the blank and of the next token: (B, t, U + 1, V) -> twice (B, t, U + 1)."""
        rows, width = self.following.shape
        if logits.ndim != 4 or (len(logits), logits.shape[2]) != (rows, width):
            raise SecateurError(f"logits: got shape {tuple(logits.shape)}, allowed is ({rows}, T, {width}, V).")
        outputs = logits.shape[-1]
        if self.blank >= outputs:
            raise ConfigError(f"blank: got {self.blank}, allowed is 0 to {outputs - 1}.")
        if self.largest >= outputs:
            raise DataError(f"scripts: got token {self.largest}, allowed is 0 to {outputs - 1}.")
        found: tuple[Tensor, Tensor]
        found = _Emissions.apply(logits, self.following, self.blank)  # type: ignore[no-untyped-call]
        return found

    def losses(self, blanks: Tensor, labels: Tensor) -> Tensor:
        """From log-probabilities, twice (B, T, U + 1), to (B,)."""
        return -log_likelihoods(blanks, labels[:, :, :-1], self.frames, self.lengths).to(blanks.dtype)


class _Emissions(torch.autograd.Function):
    """Two columns of a log-softmax, of which nothing is kept but its input."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, following: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, following)
        ctx.blank = blank
        wide = torch.promote_types(logits.dtype, torch.float32)
        blanks, labels = (logits.new_empty(logits.shape[:-1], dtype=wide) for _ in range(2))
        cells = (logits.flatten(0, 2), _cells(following, logits), blanks.flatten(), labels.flatten())
        for piece, token, to_blank, to_label in _pieces(logits, *cells):
            scores = piece.log_softmax(-1, dtype=wide)
            to_blank.copy_(scores[:, blank])
            to_label.copy_(scores.gather(1, token)[:, 0])
        return blanks, labels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_blanks: Tensor, of_labels: Tensor) -> tuple[Tensor, None, None]:
        logits, following = ctx.saved_tensors
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        cells = (logits.flatten(0, 2), _cells(following, logits), of_blanks.reshape(-1, 1), of_labels.reshape(-1, 1))
        for piece, token, of_blank, of_label, out in _pieces(logits, *cells, result.flatten(0, 2)):
            both = of_blank + of_label
            scores = piece.softmax(-1, dtype=both.dtype).mul_(-both)
            scores[:, ctx.blank] += of_blank[:, 0]
            scores.scatter_add_(1, token, of_label)
            nowhere = (both[:, 0] == 0).nonzero()[:, 0]  # no path comes there: padding, which may hold no numbers
            out.copy_(scores.index_fill_(0, nowhere, 0.0))
        return result, None, None


def _cells(following: Tensor, logits: Tensor) -> Tensor:
    """(B, U + 1) -> (B * t * (U + 1), 1), the next token wherever there are logits."""
    return following[:, None].expand(logits.shape[:-1]).reshape(-1, 1)


def _pieces(logits: Tensor, *cells: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same cells of each, few enough for the device."""
    held = _CACHED if logits.device.type == "cpu" else _HELD
    return zip(*(each.split(max(1, held // logits.shape[-1])) for each in cells), strict=True)
