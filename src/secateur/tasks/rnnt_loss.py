"""The transducer loss (RNN-T), from a whole tensor of logits or, for long audio, from what a joiner makes them of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.errors import ConfigError, DataError, SecateurError
from secateur.tasks.chunked_checkpoint import chunked_checkpoint
from secateur.tasks.rnnt_lattice import log_likelihoods

_MAX_LOGITS_CPU = (
    1 << 18
)  # logits whose probabilities exist at once on a CPU: 1 MB in float32, which stays in the cache
_MAX_LOGITS_ACCELERATOR = 1 << 26  # and elsewhere, where many small pieces would take long to launch


class Joiner(Protocol):
    """Logits of what an encoder and a predictor say together; `transformers`' ``model.joint`` is one as it stands."""

    def __call__(self, *, encoder_hidden_states: Tensor, decoder_hidden_states: Tensor) -> Tensor:
        """(B, t, 1, D) of the encoder and (B, 1, U + 1, D) of the predictor to logits (B, t, U + 1, V)."""


def losses(logits: Tensor, frames: Tensor, target_tokens: Sequence[Sequence[int]], *, blank: int) -> Tensor:
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
    rows, frame_total, width, _ = logits.shape
    targets = _TransducerTargets.from_tokens(
        frames, target_tokens, blank=blank, shape=(rows, frame_total, width), device=logits.device
    )
    return targets.losses(*targets.emissions(logits))


def fused_losses(
    joiner: Joiner,
    encoder: Tensor,
    predictor: Tensor,
    frames: Tensor,
    target_tokens: Sequence[Sequence[int]],
    *,
    blank: int,
    max_cells: int = 1 << 12,
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
    if max_cells < 1:
        raise ConfigError(f"at_once: got {max_cells}, allowed is 1 or more.")
    (rows, frame_total, _), width = encoder.shape, predictor.shape[1]
    if len(predictor) != rows:
        raise SecateurError(f"predictor: got {len(predictor)} rows, allowed are the encoder's {rows}.")
    targets = _TransducerTargets.from_tokens(
        frames, target_tokens, blank=blank, shape=(rows, frame_total, width), device=encoder.device
    )

    def compute_emissions(encoder_chunk: Tensor, predictor_states: Tensor) -> tuple[Tensor, Tensor]:
        logits = joiner(
            encoder_hidden_states=encoder_chunk[:, :, None], decoder_hidden_states=predictor_states[:, None]
        )
        return targets.emissions(logits)

    size = max(1, max_cells // (rows * width))
    return targets.losses(
        *chunked_checkpoint(compute_emissions, encoder[:, : targets.max_frames], predictor, size=size)
    )


@dataclass(frozen=True, kw_only=True)
class _TransducerTargets:
    """What a batch is to write.

    Attributes:
        frames: (B,), valid frames of each row; the most of them are `longest`.
        lengths: (B,), tokens of each row.
        following: (B, U + 1), the token that is next after 0 to U of them; the blank where there is none.
        largest: The largest number of a token or the blank.
    """

    frames: Tensor
    max_frames: int
    lengths: Tensor
    next_tokens: Tensor
    max_token: int
    blank: int

    @classmethod
    def from_tokens(
        cls,
        frames: Tensor,
        target_tokens: Sequence[Sequence[int]],
        *,
        blank: int,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> _TransducerTargets:
        """Checked against the shape (B, T, U + 1) of the lattice."""
        rows, frame_total, width = shape
        frame_counts = frames.tolist()
        if not rows == len(frame_counts) == len(target_tokens):
            raise SecateurError(
                f"got {len(frame_counts)} numbers of frames and {len(target_tokens)} scripts for {rows} rows."
            )
        for row, count in enumerate(frame_counts):
            if not 1 <= count <= frame_total:
                raise DataError(f"frames: got {count} in row {row}, allowed is 1 to {frame_total}.")
        if blank < 0:
            raise ConfigError(f"blank: got {blank}, allowed is 0 or more.")
        for row, row_tokens in enumerate(target_tokens):
            invalid_token = next((token for token in row_tokens if token < 0 or token == blank), None)
            if invalid_token is not None:
                raise DataError(
                    f"scripts: got {invalid_token} in row {row}, allowed is 0 or more, and not the blank, {blank}."
                )
        lengths = [len(row_tokens) for row_tokens in target_tokens]
        if max(lengths) + 1 != width:
            raise SecateurError(
                f"got outputs for {width - 1} tokens, allowed is as many as the longest script has: {max(lengths)}."
            )
        padded = [[*row_tokens, *[blank] * (width - len(row_tokens))] for row_tokens in target_tokens]
        return cls(
            frames=torch.tensor(frame_counts, device=device),
            max_frames=max(frame_counts),
            lengths=torch.tensor(lengths, device=device),
            next_tokens=torch.tensor(padded, device=device),
            max_token=max(map(max, padded)),
            blank=blank,
        )

    def emissions(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the blank and of the next token: (B, t, U + 1, V) -> twice (B, t, U + 1)."""
        rows, width = self.next_tokens.shape
        if logits.ndim != 4 or (len(logits), logits.shape[2]) != (rows, width):
            raise SecateurError(f"logits: got shape {tuple(logits.shape)}, allowed is ({rows}, T, {width}, V).")
        outputs = logits.shape[-1]
        if self.blank >= outputs:
            raise ConfigError(f"blank: got {self.blank}, allowed is 0 to {outputs - 1}.")
        if self.max_token >= outputs:
            raise DataError(f"scripts: got token {self.max_token}, allowed is 0 to {outputs - 1}.")
        emissions: tuple[Tensor, Tensor]
        emissions = _Emissions.apply(logits, self.next_tokens, self.blank)  # type: ignore[no-untyped-call]
        return emissions

    def losses(self, blanks: Tensor, labels: Tensor) -> Tensor:
        """From log-probabilities, twice (B, T, U + 1), to (B,)."""
        return -log_likelihoods(blanks, labels[:, :, :-1], self.frames, self.lengths).to(blanks.dtype)


class _Emissions(torch.autograd.Function):
    """Two columns of a log-softmax, of which nothing is kept but its input."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, next_tokens: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, next_tokens)
        ctx.blank = blank
        accumulation_dtype = torch.promote_types(logits.dtype, torch.float32)
        blanks, labels = (logits.new_empty(logits.shape[:-1], dtype=accumulation_dtype) for _ in range(2))
        cells = (logits.flatten(0, 2), _cells(next_tokens, logits), blanks.flatten(), labels.flatten())
        for logit_chunk, next_token, blank_output, label_output in _split_chunks(logits, *cells):
            scores = logit_chunk.log_softmax(-1, dtype=accumulation_dtype)
            blank_output.copy_(scores[:, blank])
            label_output.copy_(scores.gather(1, next_token)[:, 0])
        return blanks, labels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, blank_gradients: Tensor, label_gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, next_tokens = ctx.saved_tensors
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        cells = (
            logits.flatten(0, 2),
            _cells(next_tokens, logits),
            blank_gradients.reshape(-1, 1),
            label_gradients.reshape(-1, 1),
        )
        for logit_chunk, token, blank_gradient, label_gradient, gradient_chunk in _split_chunks(
            logits, *cells, result.flatten(0, 2)
        ):
            gradient_sum = blank_gradient + label_gradient
            scores = logit_chunk.softmax(-1, dtype=gradient_sum.dtype).mul_(-gradient_sum)
            scores[:, ctx.blank] += blank_gradient[:, 0]
            scores.scatter_add_(1, token, label_gradient)
            zero_gradient_rows = (gradient_sum[:, 0] == 0).nonzero()[
                :, 0
            ]  # no path comes there: padding, which may hold no numbers
            gradient_chunk.copy_(scores.index_fill_(0, zero_gradient_rows, 0.0))
        return result, None, None


def _cells(next_tokens: Tensor, logits: Tensor) -> Tensor:
    """(B, U + 1) -> (B * t * (U + 1), 1), the next token wherever there are logits."""
    return next_tokens[:, None].expand(logits.shape[:-1]).reshape(-1, 1)


def _split_chunks(logits: Tensor, *cells: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same cells of each, few enough for the device."""
    max_logits = _MAX_LOGITS_CPU if logits.device.type == "cpu" else _MAX_LOGITS_ACCELERATOR
    return zip(*(tensor.split(max(1, max_logits // logits.shape[-1])) for tensor in cells), strict=True)
