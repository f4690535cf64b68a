"""Transcription independent of the head: target tokens of texts, and word and character error rates."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError, DataError
from secateur.records.score import ScoreInfo
from secateur.tasks import vocabulary
from secateur.tasks.error_rate import ErrorRate
from secateur.tasks.task import (
    BuildInputs,
    FilteredCorpus,
    Metric,
    StepTargets,
    UtteranceTargets,
    filter_utterances,
)
from secateur.tasks.vocabulary import LetterCase, Vocabulary

#: Token sequences that a task caches; about 50 MB of sentences.
TARGET_CACHE_SIZE = 1 << 15

WORD_ERROR_RATE = ScoreInfo(title="Word error rate", direction="lower")


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """Config fields of every kind of transcription."""

    kind: str
    tokenizer: str = "auto"
    """``auto``: the model's tokenizer, or the characters of the training texts where it has none; ``characters``; or a
    folder or hub id"""
    case: LetterCase = "auto"
    """case of letters before encoding; ``auto``: the case of the vocabulary"""
    unknown: Literal["drop", "skip"] = "drop"
    """characters outside the vocabulary are dropped from the text, or the utterance is skipped"""

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise ConfigError("tokenizer: got an empty name, expected 'auto', 'characters', or a folder or hub id.")


@dataclass(frozen=True)
class TargetTokens:
    """Target of a head for an utterance.

    Attributes:
        tokens: Token ids, all of them outputs of the head.
        unknown_characters: Characters that were dropped from the text, in their order.
        problem: Reason to skip the utterance; None for a usable one.
    """

    tokens: tuple[int, ...] = ()
    unknown_characters: str = ""
    problem: str | None = None


class TranscriptTask(ABC):
    """Transcription of utterances in the tokens of a vocabulary."""

    head_class: str
    title: str
    primary_metric: str = "wer"
    scores: Mapping[str, ScoreInfo] = MappingProxyType(
        {"wer": WORD_ERROR_RATE, "cer": ScoreInfo(title="Character error rate", direction="lower")}
    )
    needs_full_utterance: bool = True
    notes: tuple[str, ...] = ()

    def __init__(
        self, vocabulary: Vocabulary, *, unknown: Literal["drop", "skip"], outputs: int, new_head: bool
    ) -> None:
        """
        Args:
            vocabulary: Vocabulary of the transcripts.
            unknown: Treatment of texts with characters outside the vocabulary.
            outputs: Number of outputs of the head.
            new_head: Whether the head is newly initialized.
        """
        self.vocabulary = vocabulary
        self.unknown = unknown
        self.outputs = outputs
        self.new_head = new_head
        self.head = nn.Module()
        # The tokenizer is slow, and the loss, the filter and the metric ask for the tokens in every epoch.
        self._cached_target_tokens = lru_cache(maxsize=TARGET_CACHE_SIZE)(self.make_target_tokens)

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """Return the fields of the model's config that the head needs."""

    @abstractmethod
    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any) -> Tensor:
        """Return the summed negative log-likelihood of the target tokens."""

    @abstractmethod
    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predictions that `decode_texts` takes."""

    @abstractmethod
    def decode_texts(self, predictions: Tensor, frames: Tensor) -> list[str]:
        """Return the texts of B rows, given predictions and valid frames, (B,)."""

    @abstractmethod
    def alignment_problem(self, tokens: Sequence[int], frames: int) -> str | None:
        """Return a problem where a number of frames is too small for the target tokens."""

    def init_head(self, model: Any) -> None:  # noqa: B027 - not abstract
        """Do nothing: most new heads keep the random weights."""

    def target_tokens(self, utterance: Utterance) -> TargetTokens:
        """Return the target of an utterance, from a cache."""
        return self._cached_target_tokens(*self.label_and_text(utterance))

    def label_and_text(self, utterance: Utterance) -> tuple[str | None, str | None]:
        """Return the label and the text that the target is made from."""
        return None, utterance.text

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Return the utterances with a text that the vocabulary encodes and audio of sufficient length.

        Raises:
            DataError: No utterance is usable, or no utterance has a text.
        """
        require_texts(corpus)
        dropped: Counter[str] = Counter()
        notes: list[str] = []

        def problem(utterance: Utterance) -> str | None:
            targets = self.target_tokens(utterance)
            if targets.problem is not None:
                return targets.problem
            if targets.unknown_characters and self.unknown == "skip":
                return f"has characters outside the vocabulary: {format_characters(targets.unknown_characters)}"
            frame_problem = self.alignment_problem(targets.tokens, frames(utterance.samples))
            if frame_problem is not None:
                return f"is too short for its text: {frame_problem}"
            dropped.update(targets.unknown_characters)  # of usable utterances only
            return None

        filtered = filter_utterances(corpus, problem)
        if dropped:
            counts = [f"{format_character(character)} ({count})" for character, count in dropped.most_common(8)]
            remainder = f" and {len(dropped) - 8} more" if len(dropped) > 8 else ""
            notes.append(
                f"characters outside the vocabulary dropped from the texts, {dropped.total()} in all: "
                f"{', '.join(counts)}{remainder}"
            )
        return FilteredCorpus(filtered.corpus, (*filtered.notes, *notes), filtered.skipped)

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int] = ()
    ) -> StepTargets:
        """Return the utterances as targets, with the number of tokens as the count."""
        tokens = sum(len(self.target_tokens(utterance).tokens) for utterance in utterances)
        return UtteranceTargets(utterances, tokens)

    def metric(self) -> Metric:
        """Return a new metric of word and character error rate."""
        return TranscriptMetric(self)

    def reference_text(self, utterance: Utterance) -> str:
        """Return the text of a perfect prediction: the target tokens, decoded like any output."""
        return self.vocabulary.decode(self.target_tokens(utterance).tokens)

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.vocabulary.save(folder)

    def restore(self, folder: Path) -> None:  # noqa: B027 - not abstract
        """Load no file: the head is part of the model."""

    def make_target_tokens(self, label: str | None, text: str | None) -> TargetTokens:
        """Return the target of a text; the label is ignored."""
        if text is None or not text.strip():
            return TargetTokens(problem="has no text")
        cleaned_text, dropped = self.vocabulary.clean(text)
        return self.encode_target(cleaned_text, dropped)

    def encode_target(self, text: str, dropped: str) -> TargetTokens:
        """Return the target of a cleaned text, with the characters that were dropped from the text."""
        tokens = self.vocabulary.encode(text)
        if not tokens:
            return TargetTokens(
                unknown_characters=dropped, problem=f"has no character of the vocabulary: {format_characters(dropped)}"
            )
        if not self.vocabulary.is_writable(tokens):
            return TargetTokens(unknown_characters=dropped, problem="has text that the tokenizer cannot encode")
        return TargetTokens(tokens, dropped)


class TranscriptMetric:
    """Word and character error rate of greedy decoding, against the decoded target tokens.

    References are in the case of the vocabulary and without the characters outside the vocabulary.
    """

    def __init__(self, task: TranscriptTask) -> None:
        self.task = task
        self.rates = {"wer": ErrorRate("word"), "cer": ErrorRate("character")}

    def update(self, predictions: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Add a batch: predictions of the task and valid frames, (B,)."""
        references = [self.task.reference_text(utterance) for utterance in utterances]
        hypotheses = self.task.decode_texts(predictions, frames)
        for rate in self.rates.values():
            rate.update(references, hypotheses)

    def compute(self) -> dict[str, float]:
        """Return ``wer`` and ``cer``."""
        return {name: rate.value for name, rate in self.rates.items()}


def select_tokenizer(config: Transcription, inputs: BuildInputs, *, head: str) -> tuple[Any, Any]:
    """Return the tokenizer of a config and the model's own tokenizer, if the model has and needs a tokenizer.

    Args:
        config: Config of the task.
        inputs: Model, and corpus for a new vocabulary.
        head: Words for the model's head, such as ``CTC head``; empty for a new head.

    Raises:
        ConfigError: A tokenizer cannot be loaded, or the model has a head but no tokenizer.
        DataError: A new vocabulary is required and the corpus has no texts.
    """
    source = inputs.source
    model_tokenizer = None
    if (head or config.tokenizer == "auto") and vocabulary.has_tokenizer(source):
        model_tokenizer = vocabulary.load_tokenizer(source)
    if config.tokenizer not in ("auto", "characters"):
        return vocabulary.load_tokenizer(config.tokenizer), model_tokenizer
    if head and model_tokenizer is None:
        raise ConfigError(
            f"{str(source)!r} has a {head} but no tokenizer to decode its output; set 'tokenizer' to the folder or hub "
            "id of one."
        )
    if config.tokenizer == "auto" and model_tokenizer is not None:
        return model_tokenizer, model_tokenizer
    symbols = vocabulary.characters(require_texts(inputs.corpus), config.case)
    return vocabulary.make_tokenizer(symbols), model_tokenizer


def check_vocabulary_fits(
    vocabulary: Vocabulary, outputs: int, model_tokenizer: Any, *, name: str, head: str, extra_outputs: str = ""
) -> None:
    """Raise a ConfigError for a vocabulary that differs from the vocabulary of a model's head.

    Args:
        vocabulary: Vocabulary to check.
        outputs: Number of outputs of the head for tokens.
        model_tokenizer: Tokenizer of the model; None where it has none.
        name: Value of the config's ``tokenizer``.
        head: Words for the head.
        extra_outputs: Words for further outputs of the head.
    """
    if not vocabulary.fits_head(outputs):
        raise ConfigError(
            f"tokenizer: {name!r} has {len(vocabulary)} tokens, but the model's {head} has {outputs} "
            f"outputs{extra_outputs}; 'auto' takes the model's own tokenizer, and a model without a task head gets a "
            "new head."
        )
    if model_tokenizer is not None and model_tokenizer.get_vocab() != vocabulary.tokens:
        raise ConfigError(
            f"tokenizer: {name!r} has as many tokens as the model's own, but different ones, so that the output of "
            f"the model's {head} would be decoded wrongly; 'auto' takes the model's own tokenizer."
        )


def require_texts(corpus: Corpus) -> list[str]:
    """Return the texts of a corpus.

    Raises:
        DataError: No utterance has a text.
    """
    texts = [utterance.text for utterance in corpus.utterances if utterance.text and utterance.text.strip()]
    if not texts:
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} has a text, which this task "
            "requires; name a manifest with texts, such as JSONL with 'text', or LibriSpeech."
        )
    return texts


def format_characters(characters: str) -> str:
    """Return the distinct characters of a string, for a message."""
    distinct = dict.fromkeys(characters)
    return " ".join(character if _is_visible(character) else format_character(character) for character in distinct)


def format_character(character: str) -> str:
    """Return a character in quotes, or the code point and name of an invisible or combining character."""
    if _is_visible(character):
        return repr(character)
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _is_visible(character: str) -> bool:
    return character.isprintable() and not unicodedata.combining(character)
