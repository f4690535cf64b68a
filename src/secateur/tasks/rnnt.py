"""Speech recognition by a transducer (RNN-T), its predictor and joiner learning beside the encoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError
from secateur.tasks.base import EncoderInfo, has_task_head
from secateur.tasks.decoding import greedy
from secateur.tasks.rnnt_loss import fused_losses
from secateur.tasks.transcription import Transcription, TranscriptTask, check_vocabulary_fits, select_tokenizer
from secateur.tasks.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# Numbers of a layer of the joiner that exist at once: 16 MB on a CPU; more where small pieces take long to launch.
_MAX_VALUES_CPU, _MAX_VALUES_ACCELERATOR = 1 << 22, 1 << 26

_INITIAL_BLANK_SHARE = 0.9  # share of them that a new joiner expects


@dataclass(frozen=True, kw_only=True)
class Rnnt(Transcription):
    """Transcription by an encoder, a predictor of the tokens so far (an LSTM), and a joiner of both."""

    kind: Literal["rnnt"] = "rnnt"
    head_class: ClassVar[str] = "ForRNNT"
    width: int = 320
    """of the predictor and joiner of a new head, which the library's classes make equally wide"""
    layers: int = 1
    """of a new predictor"""
    symbols: int = 10
    """tokens that a new head may write in one frame when it decodes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "layers", "symbols"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed is 1 or more.")

    def build(
        self,
        *,
        source: str | Path,
        model_config: PreTrainedConfig,
        corpus: Corpus,
        encoder_info: EncoderInfo | None = None,
    ) -> RnntTask:
        """Return the task for a model; see `build_task`."""
        return build_rnnt(self, source=source, model_config=model_config, corpus=corpus)


class RnntTask(TranscriptTask):
    """Writes a script, by a transducer.

    Attributes:
        decode: How tokens are found, given the model and the inputs of its forward pass.
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
            words: What can be written.
            unknown: What becomes of a text with characters outside it.
            outputs: Of the joiner.
            new_head: Whether the head starts from nothing.
            symbols: Tokens that may be written in one frame.
            width: Of predictor and joiner.
            layers: Of the predictor.
        """
        super().__init__(vocabulary, unknown=unknown, outputs=outputs, new_head=new_head)
        self.symbols, self.width, self.layers = symbols, width, layers
        self.decode: Callable[[Any, Mapping[str, Tensor]], Tensor] = greedy

    def fields(self) -> dict[str, Any]:
        """Shape of the head, and its blank, which is also what decoding starts from."""
        blank = self.vocabulary.blank
        return {
            "vocab_size": self.outputs,
            "decoder_hidden_size": self.width,
            "num_decoder_layers": self.layers,
            "max_symbols_per_step": self.symbols,
            "blank_token_id": blank,
            "pad_token_id": self.vocabulary.tokenizer.pad_token_id,
            "decoder_start_token_id": blank,
        }

    @torch.no_grad()
    def init_head(self, model: Any) -> None:
        """A new joiner expects a blank nine times of ten.

        If it held all tokens for equally likely, the loss of an utterance would begin with the logarithm of their
        number for every frame, and what brings that down fastest is an encoder whose frames are all alike.
        """
        model.joint.head.bias.zero_()
        model.joint.head.bias[self.vocabulary.blank] = math.log(
            _INITIAL_BLANK_SHARE / (1.0 - _INITIAL_BLANK_SHARE) * max(1, self.outputs - 1)
        )

    def alignment_problem(self, tokens: Sequence[int], frames: int) -> str | None:
        """The loss aligns any script to any audio but none; decoding writes only so many tokens in a frame."""
        if len(tokens) <= frames * self.symbols:
            return None
        return f"{frames} frames for {len(tokens)} tokens, at most {self.symbols} in each"

    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any) -> Tensor:
        """The sum over utterances of the negative log-likelihood of their scripts.

        Predictor and joiner are called here, for some frames at a time: the library's own loss would hold the logits of
        all frames after any number of tokens, and for the streaming model is that of a language model.

        Args:
            output: (B, T, D), last hidden state of the encoder.
            frames: (B,), valid frames of each row.
            utterances: B of them.
            model: `ParakeetForRNNT`, `NemotronAsrStreamingForRNNT`, or a cut one.
        """
        blank = self.vocabulary.blank
        target_tokens = [self.target_tokens(utterance).tokens for utterance in utterances]
        longest = max(map(len, target_tokens))
        rows = [[blank, *tokens, *[blank] * (longest - len(tokens))] for tokens in target_tokens]
        # cuDNN gives an LSTM gradients in train mode alone; without dropout the modes do not differ.
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
        """Tokens written by greedy decoding, (B, N), the blank behind the last of each row."""
        return self.decode(model, inputs)

    def decode_texts(self, predictions: Tensor, frames: Tensor) -> list[str]:
        """What was written: (B, N) to B texts."""
        blank = self.vocabulary.blank
        return [self.vocabulary.decode([token for token in row if token != blank]) for row in predictions.tolist()]


def build_rnnt(config: Rnnt, *, source: str | Path, model_config: PreTrainedConfig, corpus: Corpus) -> RnntTask:
    """The task for a model: with its own head and tokenizer where it has them, else with new ones.

    Raises:
        ConfigError: Tokenizer or blank do not fit the joiner that the model has, or no tokenizer can be loaded.
        DataError: A vocabulary is to be made of texts that are not there.
    """
    settings: Any = model_config
    has_head = has_task_head(settings.architectures, "ForRNNT")
    head = "joiner"
    tokenizer, model_tokenizer = select_tokenizer(config, source=source, corpus=corpus, head=head if has_head else "")
    if not has_head:
        vocabulary = Vocabulary(tokenizer, case=config.case)
        shape = {"symbols": config.symbols, "width": config.width, "layers": config.layers}
        return RnntTask(vocabulary, unknown=config.unknown, outputs=len(vocabulary), new_head=True, **shape)
    model_head_shape = (settings.decoder_hidden_size, settings.num_decoder_layers, settings.max_symbols_per_step)
    for name, value in zip(("width", "layers", "symbols"), model_head_shape, strict=True):
        if getattr(config, name) not in (value, getattr(Rnnt, name)):
            logger.warning("task.%s: %s is of new heads; this model's own has %s", name, getattr(config, name), value)
    outputs = settings.vocab_size
    vocabulary = Vocabulary(tokenizer, case=config.case, blank=settings.blank_token_id, outputs=outputs)
    extra_outputs = _extra_outputs(vocabulary, outputs, name=config.tokenizer)
    tokens = outputs - (1 if extra_outputs else 0)
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
    """What the joiner has an output for beside the vocabulary's tokens: its blank, unless that is one of them.

    Raises:
        ConfigError: The blank is no output, or a token that texts are written with.
    """
    blank, special_tokens = vocabulary.blank, vocabulary.tokenizer.all_special_tokens
    if not 0 <= blank < outputs:
        raise ConfigError(f"blank_token_id: the model's config says {blank}, allowed is 0 to {outputs - 1}.")
    token = next((token for token, number in vocabulary.tokens.items() if number == blank), None)
    if token is not None and token not in special_tokens and not token.startswith("<"):
        raise ConfigError(
            f"blank_token_id: the model's config says {blank}, which the tokenizer {name!r} reads as {token!r}; "
            "allowed is a number that no text is written with."
        )
    return " beside its blank" if token is None else ""
