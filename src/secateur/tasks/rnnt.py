"""Speech recognition by a transducer (RNN-T), with training of predictor, joiner and encoder together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from secateur.bounds import PositiveInt
from secateur.data.corpus import Utterance
from secateur.errors import ConfigError
from secateur.tasks.decoding import greedy
from secateur.tasks.rnnt_loss import fused_losses
from secateur.tasks.task import BuildInputs, has_task_head
from secateur.tasks.transcription import Transcription, TranscriptTask, check_vocabulary_fits, select_tokenizer
from secateur.tasks.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# Most values of a joiner activation in memory at once: 16 MB in float32 on a CPU; more on an accelerator, where the
# launch of many small kernels would dominate.
_MAX_VALUES_CPU = 1 << 22
_MAX_VALUES_ACCELERATOR = 1 << 26

_INITIAL_BLANK_SHARE = 0.9  # probability of the blank in a new joiner


@dataclass(frozen=True, kw_only=True)
class Rnnt(Transcription):
    """Transcription by an encoder, an LSTM over the previous tokens (the predictor), and a joiner."""

    kind: Literal["rnnt"] = "rnnt"
    head_class: ClassVar[str] = "ForRNNT"
    width: PositiveInt = 320
    """dimension of predictor and joiner of a new head, which the transformers classes make equally wide"""
    layers: PositiveInt = 1
    """LSTM layers of a new predictor"""
    symbols: PositiveInt = 10
    """most tokens in one frame when a new head decodes"""

    def build(self, inputs: BuildInputs) -> RnntTask:
        """Return the task for a model; see `build_task`."""
        return build_rnnt(self, inputs)


class RnntTask(TranscriptTask):
    """Transcription by a transducer.

    Attributes:
        decode: Decoding function, from the model and the inputs of its forward pass to tokens.
    """

    head_class: str = Rnnt.head_class
    title: str = "Speech recognition (RNN-T)"

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        unknown: Literal["drop", "skip"],
        outputs: int,
        new_head: bool,
        symbols: int,
        width: int,
        layers: int,
    ) -> None:
        """
        Args:
            vocabulary: Vocabulary of the transcripts.
            unknown: Treatment of texts with characters outside the vocabulary.
            outputs: Number of outputs of the joiner.
            new_head: Whether the head is newly initialized.
            symbols: Most tokens in one frame.
            width: Dimension of predictor and joiner.
            layers: Layers of the predictor.
        """
        super().__init__(vocabulary, unknown=unknown, outputs=outputs, new_head=new_head)
        self.symbols = symbols
        self.width = width
        self.layers = layers
        self.decode: Callable[[Any, Mapping[str, Tensor]], Tensor] = greedy

    def fields(self) -> dict[str, Any]:
        """Return the shape of the head, and the blank, which is also the start token of decoding."""
        blank = self.vocabulary.blank
        return {
            "vocab_size": self.outputs,
            "decoder_hidden_size": self.width,
            "num_decoder_layers": self.layers,
            "max_symbols_per_step": self.symbols,
            "blank_token_id": blank,
            # The padding of token sequences, which need not be the blank.
            "pad_token_id": self.vocabulary.tokenizer.pad_token_id,
            "decoder_start_token_id": blank,
        }

    @torch.no_grad()
    def init_head(self, model: Any) -> None:
        """Set the bias of a new joiner so that the blank has a probability of 0.9.

        With equal probabilities the initial loss would be the logarithm of the vocabulary size for every frame, which
        training reduces fastest by an encoder whose frames are all alike. With logit b for the blank and 0 for the
        other V - 1 outputs, the blank's probability p = exp(b) / (exp(b) + V - 1) gives b = log(p / (1 - p) (V - 1)).
        """
        model.joint.head.bias.zero_()
        model.joint.head.bias[self.vocabulary.blank] = math.log(
            _INITIAL_BLANK_SHARE / (1.0 - _INITIAL_BLANK_SHARE) * max(1, self.outputs - 1)
        )

    def alignment_problem(self, tokens: Sequence[int], frames: int) -> str | None:
        """Return a problem for too many tokens: the loss has no limit, but decoding emits `symbols` tokens a frame."""
        if len(tokens) <= frames * self.symbols:
            return None
        return f"{frames} frames for {len(tokens)} tokens, at most {self.symbols} in each"

    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any) -> Tensor:
        """Return the summed negative log-likelihood of the target tokens.

        Predictor and joiner are called here, for some frames at a time. The loss in transformers would hold the logits
        of all frames and token counts in memory, and for the streaming model is that of a language model.

        Args:
            output: (B, T, D), last hidden state of the encoder.
            frames: (B,), number of valid frames of each row.
            utterances: B utterances.
            model: `ParakeetForRNNT`, `NemotronAsrStreamingForRNNT`, or a cut model of these classes.
        """
        blank = self.vocabulary.blank
        target_tokens = [self.target_tokens(utterance).tokens for utterance in utterances]
        longest = max(map(len, target_tokens))
        # The predictor starts from the blank: tokens 5 7 among rows of up to three become blank 5 7 blank.
        rows = [[blank, *tokens, *[blank] * (longest - len(tokens))] for tokens in target_tokens]
        # cuDNN computes gradients of an LSTM in train mode only; without dropout both modes are equal.
        model.decoder.train(torch.is_grad_enabled())
        predictor_states = model.decoder(torch.tensor(rows, device=output.device))  # (B, U + 1, D)
        max_values = _MAX_VALUES_CPU if output.device.type == "cpu" else _MAX_VALUES_ACCELERATOR
        return fused_losses(
            model.joint,
            model.encoder_projector(output),
            predictor_states,
            frames,
            target_tokens,
            blank=blank,
            max_cells=max(1, max_values // max(self.outputs, predictor_states.shape[-1])),
        ).sum()

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the decoded tokens, (B, N), each row filled up with blanks."""
        return self.decode(model, inputs)

    def decode_texts(self, predictions: Tensor, frames: Tensor) -> list[str]:
        """Return the texts of B rows of decoded tokens, (B, N)."""
        blank = self.vocabulary.blank
        return [self.vocabulary.decode([token for token in row if token != blank]) for row in predictions.tolist()]


def build_rnnt(config: Rnnt, inputs: BuildInputs) -> RnntTask:
    """Return the task for a model, with the model's head and tokenizer or, for a bare encoder, with a new head.

    Raises:
        ConfigError: Tokenizer or blank do not fit the joiner of the model, or no tokenizer can be loaded.
        DataError: A new vocabulary is required and the corpus has no texts.
    """
    settings: Any = inputs.model_config
    has_head = has_task_head(settings.architectures, config.head_class)
    head = "joiner"
    tokenizer, model_tokenizer = select_tokenizer(config, inputs, head=head if has_head else "")
    if not has_head:
        vocabulary = Vocabulary(tokenizer, case=config.case)
        shape = {"symbols": config.symbols, "width": config.width, "layers": config.layers}
        return RnntTask(vocabulary, unknown=config.unknown, outputs=len(vocabulary), new_head=True, **shape)
    model_head_shape = (settings.decoder_hidden_size, settings.num_decoder_layers, settings.max_symbols_per_step)
    # A value other than the default was set by the user, and has no effect on a head that exists.
    for name, value in zip(("width", "layers", "symbols"), model_head_shape, strict=True):
        if getattr(config, name) not in (value, getattr(Rnnt, name)):
            logger.warning(
                "task.%s: %s is ignored, because it is for new heads; the head of this model has %s",
                name,
                getattr(config, name),
                value,
            )
    outputs = settings.vocab_size
    vocabulary = Vocabulary(tokenizer, case=config.case, blank=settings.blank_token_id, outputs=outputs)
    extra_outputs = _extra_outputs(vocabulary, outputs, name=config.tokenizer)
    tokens = outputs - 1 if extra_outputs else outputs
    check_vocabulary_fits(
        vocabulary, tokens, model_tokenizer, name=config.tokenizer, head=head, extra_outputs=extra_outputs
    )
    return RnntTask(
        vocabulary,
        unknown=config.unknown,
        outputs=outputs,
        new_head=False,
        symbols=settings.max_symbols_per_step,
        width=settings.decoder_hidden_size,
        layers=settings.num_decoder_layers,
    )


def _extra_outputs(vocabulary: Vocabulary, outputs: int, *, name: str) -> str:
    """Return words for the joiner's output beside the vocabulary: the blank, unless the blank is a token.

    Raises:
        ConfigError: The blank is no output, or is a token of texts.
    """
    blank = vocabulary.blank
    special_tokens = vocabulary.tokenizer.all_special_tokens
    if not 0 <= blank < outputs:
        raise ConfigError(f"blank_token_id: the model's config says {blank}, expected 0 to {outputs - 1}.")
    token = next((token for token, number in vocabulary.tokens.items() if number == blank), None)
    if token is not None and token not in special_tokens and not token.startswith("<"):
        raise ConfigError(
            f"blank_token_id: the model's config says {blank}, which the tokenizer {name!r} reads as {token!r}; "
            "expected the id of a token that occurs in no text."
        )
    return " beside its blank" if token is None else ""
