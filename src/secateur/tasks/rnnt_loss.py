"""Transducer loss (RNN-T), from a tensor of logits or, for long audio, from the inputs of the joiner."""

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

# Most logits in a softmax at once: 1 MB in float32 on a CPU, which fits its cache; more on an accelerator, where the
# launch of many small kernels would dominate.
_MAX_LOGITS_CPU = 1 << 18
_MAX_LOGITS_ACCELERATOR = 1 << 26


class Joiner(Protocol):
    """Function from encoder and predictor states to logits, such as ``model.joint`` of transformers."""

    def __call__(self, *, encoder_hidden_states: Tensor, decoder_hidden_states: Tensor) -> Tensor:
        """Return the logits of states: (B, t, 1, D) and (B, 1, U + 1, D) -> (B, t, U + 1, V)."""


def losses(logits: Tensor, frames: Tensor, target_tokens: Sequence[Sequence[int]], *, blank: int) -> Tensor:
    """Return the negative log-likelihood of each token sequence in nats, (B,), in float32 or better.

    In the standard transducer a blank moves to the next frame, a token stays in its frame, and a blank in the last
    frame after the last token ends the path. So one frame suffices for any sequence. For a row without a path, such as
    with a logit of minus infinity for a token in every frame, the loss is infinite and its gradient is zero. Logits
    beyond a row's frames or tokens are ignored.

    Like CTC (`ctc_ops.loss_sum`), but the logits depend on the previous tokens, and a frame may emit several tokens.

    Args:
        logits: (B, T, U + 1, V) for at most U tokens in a row: in frame t after u tokens; before the softmax.
        frames: (B,), number of valid frames of each row, 1 to T.
        target_tokens: B sequences of token ids without blanks; may be empty.
        blank: Id of the blank, 0 to V - 1.

    Raises:
        DataError: A number of frames is outside 1 to T; a token is outside the vocabulary, or is the blank.
        ConfigError: The blank is outside the vocabulary.
        SecateurError: The shapes of the arguments do not match.

    Source: Graves 2012, arXiv 1211.3711, Eq. 12 to 20. Differs from the paper: the softmax is over the output of any
    joiner, not over the sum of two networks' outputs.
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
    """Return `losses` of the joiner's logits, (B,), with gradients to encoder, predictor and joiner.

    The logits of all frames are never in memory together: they are computed for a chunk of frames at a time, reduced to
    two log-probabilities (of the blank and of the next token), and recomputed in the backward pass with the same random
    numbers, which costs one more forward pass of the joiner. Besides one chunk, memory holds a few numbers for each
    frame and token.

    Args:
        joiner: Joiner whose logits in a frame depend on no other frame, and on parameters or other leaf tensors only.
        encoder: (B, T, D), encoder states as the joiner takes them.
        predictor: (B, U + 1, D), predictor states after 0 to U tokens.
        frames: (B,), number of valid frames of each row, 1 to T.
        target_tokens: B sequences of token ids without blanks; may be empty.
        blank: Id of the blank, 0 to V - 1.
        max_cells: Most cells (row, frame and token count) of a chunk, each with V logits; a chunk has at least one
            frame. Larger chunks are faster on an accelerator.

    Raises:
        DataError: As `losses`.
        ConfigError: As `losses`, or `max_cells` is below 1.
        SecateurError: As `losses`.
    """
    if max_cells < 1:
        raise ConfigError(f"max_cells: got {max_cells}, expected 1 or more.")
    rows, frame_total, _ = encoder.shape
    width = predictor.shape[1]
    if len(predictor) != rows:
        raise SecateurError(f"predictor: got {len(predictor)} rows, expected {rows}, as in the encoder.")
    targets = _TransducerTargets.from_tokens(
        frames, target_tokens, blank=blank, shape=(rows, frame_total, width), device=encoder.device
    )

    def compute_emissions(encoder_chunk: Tensor, predictor_states: Tensor) -> tuple[Tensor, Tensor]:
        # (B, t, D) -> (B, t, 1, D) and (B, U + 1, D) -> (B, 1, U + 1, D)
        logits = joiner(
            encoder_hidden_states=encoder_chunk[:, :, None], decoder_hidden_states=predictor_states[:, None]
        )
        return targets.emissions(logits)

    size = max(1, max_cells // (rows * width))  # frames of a chunk
    return targets.losses(
        *chunked_checkpoint(compute_emissions, encoder[:, : targets.max_frames], predictor, size=size)
    )


@dataclass(frozen=True, kw_only=True)
class _TransducerTargets:
    """Validated targets of a batch.

    Attributes:
        frames: (B,), number of valid frames of each row.
        max_frames: The largest of these numbers.
        lengths: (B,), number of tokens of each row.
        next_tokens: (B, U + 1), next token after 0 to U tokens; the blank after the last one. Tokens 5 7 in a batch
            with U = 3 give ``5 7 blank blank``.
        max_token: Largest id of a token or the blank.
        blank: Id of the blank.
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
        """Return the targets after validation against the shape (B, T, U + 1) of the lattice."""
        rows, frame_total, width = shape
        frame_counts = frames.tolist()
        if not rows == len(frame_counts) == len(target_tokens):
            raise SecateurError(
                f"got {len(frame_counts)} numbers of frames and {len(target_tokens)} token sequences for {rows} rows."
            )
        for row, count in enumerate(frame_counts):
            if not 1 <= count <= frame_total:
                raise DataError(f"frames: got {count} in row {row}, expected 1 to {frame_total}.")
        if blank < 0:
            raise ConfigError(f"blank: got {blank}, expected 0 or more.")
        for row, row_tokens in enumerate(target_tokens):
            invalid_token = next((token for token in row_tokens if token < 0 or token == blank), None)
            if invalid_token is not None:
                raise DataError(
                    f"target_tokens: got {invalid_token} in row {row}, expected 0 or more, and not the blank, {blank}."
                )
        # U is the length of the longest sequence of the batch.
        lengths = [len(row_tokens) for row_tokens in target_tokens]
        if max(lengths) + 1 != width:
            raise SecateurError(
                f"got outputs for {width - 1} tokens, expected {max(lengths)}, the length of the longest sequence."
            )
        # The padding is the blank, which is always a valid index; the lattice ignores these cells.
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
        """Return log-probabilities of blank and next token: (B, t, U + 1, V) -> (B, t, U + 1) and (B, t, U + 1)."""
        rows, width = self.next_tokens.shape
        if logits.ndim != 4 or (len(logits), logits.shape[2]) != (rows, width):
            raise SecateurError(f"logits: got shape {tuple(logits.shape)}, expected ({rows}, T, {width}, V).")
        outputs = logits.shape[-1]
        if self.blank >= outputs:
            raise ConfigError(f"blank: got {self.blank}, expected 0 to {outputs - 1}.")
        if self.max_token >= outputs:
            raise DataError(f"target_tokens: got token {self.max_token}, expected 0 to {outputs - 1}.")
        emissions: tuple[Tensor, Tensor]
        emissions = _Emissions.apply(logits, self.next_tokens, self.blank)  # type: ignore[no-untyped-call]
        return emissions

    def losses(self, blanks: Tensor, labels: Tensor) -> Tensor:
        """Return the losses, (B,), given log-probabilities of blanks and next tokens, (B, T, U + 1) each."""
        # The last column follows all tokens: (B, T, U + 1) -> (B, T, U)
        return -log_likelihoods(blanks, labels[:, :, :-1], self.frames, self.lengths).to(blanks.dtype)


class _Emissions(torch.autograd.Function):
    """Two columns of a log-softmax, recomputed in the backward pass from the saved input."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, next_tokens: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, next_tokens)
        ctx.blank = blank
        accumulation_dtype = torch.promote_types(logits.dtype, torch.float32)
        blanks = logits.new_empty(logits.shape[:-1], dtype=accumulation_dtype)
        labels = torch.empty_like(blanks)
        cells = (logits.flatten(0, 2), _cells(next_tokens, logits), blanks.flatten(), labels.flatten())
        for logit_chunk, next_token, blank_output, label_output in _split_chunks(logits, *cells):
            scores = logit_chunk.log_softmax(-1, dtype=accumulation_dtype)
            blank_output.copy_(scores[:, blank])
            # (cells, V) at (cells, 1) -> (cells,)
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
            # d log p(k) / d logit(v) = 1[k = v] - p(v), for the columns k of the blank and of the next token.
            gradient_sum = blank_gradient + label_gradient
            scores = logit_chunk.softmax(-1, dtype=gradient_sum.dtype).mul_(-gradient_sum)
            scores[:, ctx.blank] += blank_gradient[:, 0]
            scores.scatter_add_(1, token, label_gradient)
            # No path passes these cells. They are padding, whose logits may be NaN.
            zero_gradient_rows = (gradient_sum[:, 0] == 0).nonzero()[:, 0]
            gradient_chunk.copy_(scores.index_fill_(0, zero_gradient_rows, 0.0))
        return result, None, None


def _cells(next_tokens: Tensor, logits: Tensor) -> Tensor:
    """Return the next token of each cell with logits: (B, U + 1) -> (B · t · (U + 1), 1)."""
    # (B, 1, U + 1) -> (B, t, U + 1) -> (B · t · (U + 1), 1)
    return next_tokens[:, None].expand(logits.shape[:-1]).reshape(-1, 1)


def _split_chunks(logits: Tensor, *cells: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same cells of each tensor, in chunks that the device processes at once."""
    max_logits = _MAX_LOGITS_CPU if logits.device.type == "cpu" else _MAX_LOGITS_ACCELERATOR
    return zip(*(tensor.split(max(1, max_logits // logits.shape[-1])) for tensor in cells), strict=True)
