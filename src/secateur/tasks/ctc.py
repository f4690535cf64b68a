"""Speech recognition by CTC: characters or a given tokenizer, scored by word and character error rate."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from secateur.data.corpus import Utterance
from secateur.errors import ConfigError
from secateur.tasks import ctc_ops
from secateur.tasks.task import BuildInputs, has_task_head, logits_of
from secateur.tasks.transcription import Transcription, TranscriptTask, check_vocabulary_fits, select_tokenizer
from secateur.tasks.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Ctc(Transcription):
    """Transcription by CTC, in characters or in the tokens of a given tokenizer."""

    kind: Literal["ctc"] = "ctc"
    head_class: ClassVar[str] = "ForCTC"

    def build(self, inputs: BuildInputs) -> CtcTask:
        """Return the task for a model; see `build_task`."""
        return build_ctc(self, inputs)


class CtcTask(TranscriptTask):
    """Transcription by CTC."""

    head_class: str = Ctc.head_class
    title: str = "Speech recognition (CTC)"

    def fields(self) -> dict[str, Any]:
        """Return the size of the head and the blank."""
        return {"vocab_size": self.outputs, "pad_token_id": self.vocabulary.blank}

    def alignment_problem(self, tokens: Sequence[int], frames: int) -> str | None:
        """Return a problem for too few frames: CTC needs a frame for each token and between equal neighbors."""
        min_frames = ctc_ops.min_frames(tokens)
        return f"{frames} frames for {min_frames}" if frames < min_frames else None

    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any = None) -> Tensor:
        """Return the summed negative log-likelihood of the target tokens, for logits (B, T, V)."""
        target_tokens = [self.target_tokens(utterance).tokens for utterance in utterances]
        return ctc_ops.loss_sum(output, frames, target_tokens, blank=self.vocabulary.blank)

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a model, (B, T, V)."""
        return logits_of(model, inputs)

    def decode_texts(self, predictions: Tensor, frames: Tensor) -> list[str]:
        """Return the greedily decoded texts of B rows, given logits (B, T, V) and valid frames (B,)."""
        rows = ctc_ops.greedy_decode(predictions, frames, blank=self.vocabulary.blank)
        return [self.vocabulary.decode(row) for row in rows]


def build_ctc(config: Ctc, inputs: BuildInputs) -> CtcTask:
    """Return the task for a model, with the model's head and tokenizer or, for a bare encoder, with a new head.

    Raises:
        ConfigError: The tokenizer does not fit the head of the model, or cannot be loaded.
        DataError: A new vocabulary is required and the corpus has no texts.
    """
    settings: Any = inputs.model_config
    has_head = has_task_head(settings.architectures, config.head_class)
    head = "CTC head"
    tokenizer, model_tokenizer = select_tokenizer(config, inputs, head=head if has_head else "")
    if not has_head:
        vocabulary = Vocabulary(tokenizer, case=config.case)
        return CtcTask(vocabulary, unknown=config.unknown, outputs=len(vocabulary), new_head=True)
    blank, notes = model_blank(tokenizer, settings)
    if model_tokenizer is not None and model_tokenizer is not tokenizer:
        model_blank(model_tokenizer, settings)  # may rename the padding token, as above; both are compared below
    vocabulary = Vocabulary(tokenizer, case=config.case, blank=blank, outputs=settings.vocab_size)
    check_vocabulary_fits(vocabulary, settings.vocab_size, model_tokenizer, name=config.tokenizer, head=head)
    task = CtcTask(vocabulary, unknown=config.unknown, outputs=settings.vocab_size, new_head=False)
    task.notes = notes
    return task


def model_blank(tokenizer: Any, settings: Any) -> tuple[int, tuple[str, ...]]:
    """Return the blank of a model's CTC head, with notes where config and tokenizer disagree on the blank.

    The blank is the config's ``pad_token_id``, which transformers uses in the loss. Its decoding uses the tokenizer's
    padding token instead, so a tokenizer with another padding token is changed to the blank.

    Args:
        tokenizer: Tokenizer of the model; changed in place where its padding token differs.
        settings: Config of the model.

    Raises:
        ConfigError: Neither number is an output of the head, or the config's is a token of texts.
    """
    blank = settings.pad_token_id
    padding = tokenizer.pad_token_id
    outputs = settings.vocab_size
    # The config counts first; a number that is no output of the head cannot be the blank.
    candidates = [number for number in (blank, padding) if number is not None and 0 <= number < outputs]
    if not candidates:
        raise ConfigError(
            f"pad_token_id: the model's config says {blank} and its tokenizer {padding}, {tokenizer.pad_token!r}; "
            f"expected the output of the CTC head that is its blank, 0 to {outputs - 1}."
        )
    if blank == padding:
        return padding, ()
    if candidates[0] != blank:
        return padding, (
            f"pad_token_id of the model's config is {blank}, which is no output of its CTC head: the blank is the "
            f"tokenizer's padding token {tokenizer.pad_token!r}, {padding}",
        )
    # The blank's name in the tokenizer, if any.
    token = next((token for token, number in tokenizer.get_vocab().items() if number == blank), None)
    has_padding = padding is not None and padding < outputs
    if token is not None and _is_text(tokenizer, token, is_punctuation_text=has_padding):
        raise ConfigError(
            f"pad_token_id: the model's config says {blank}, which its tokenizer reads as {token!r}, while its padding "
            f"token is {tokenizer.pad_token!r}, {padding}; expected the number of the head's blank, which occurs in no "
            "text: set it in config.json, or pad_token in tokenizer_config.json."
        )
    padding_text = "no padding token" if padding is None else f"the padding token {tokenizer.pad_token!r}, {padding}"
    # Decoding with the tokenizer drops its padding token, which therefore has to be the blank.
    if token is not None:
        tokenizer.pad_token = token
    elif blank == len(tokenizer):
        tokenizer.add_special_tokens({"pad_token": "<blank>"})
    return blank, (
        f"the model's tokenizer has {padding_text}, while the blank of its CTC head is {blank}, pad_token_id of its "
        f"config: the tokenizer that is saved with it names {tokenizer.pad_token!r}",
    )


def _is_text(tokenizer: Any, token: str, *, is_punctuation_text: bool) -> bool:
    """Return whether a token occurs in texts: the word delimiter, or a token with text that is no markup.

    Letters, digits and combining marks are text (Unicode L, N and M; the first Devanagari code point is such a mark).
    Punctuation counts as text only where the head has a padding token, too; else it may serve as the blank.

    Args:
        tokenizer: Tokenizer of the model.
        token: Token to check.
        is_punctuation_text: Whether punctuation counts as text.
    """
    if token == getattr(tokenizer, "word_delimiter_token", None):
        return True
    # Markup such as <pad>, <s> or [CLS] is no text, whatever its characters.
    if token in tokenizer.all_special_tokens or (token[0], token[-1]) in (("<", ">"), ("[", "]")):
        return False
    kinds = "LNMP" if is_punctuation_text else "LNM"
    return any(unicodedata.category(character)[0] in kinds for character in token)
