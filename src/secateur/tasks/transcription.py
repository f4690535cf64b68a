"""What transcription has in common, whatever head writes it: scripts of texts, and word and character error rate."""

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
from secateur.tasks.base import FilteredCorpus, Metric, StepTargets, UtteranceTargets, filter_utterances
from secateur.tasks.error_rate import ErrorRate
from secateur.tasks.vocabulary import LetterCase, Vocabulary

#: Scripts that a task remembers; some 50 MB of sentences.
TARGET_CACHE_SIZE = 1 << 15

WORD_ERROR_RATE = ScoreInfo(title="Word error rate", direction="lower")


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """What every kind of transcription asks for."""

    kind: str
    tokenizer: str = "auto"
    """``auto``: the model's own if it has one, else the characters of the training texts; ``characters``; or a folder
    or hub id"""
    case: LetterCase = "auto"
    """how letters are written before they are encoded; ``auto``: as the vocabulary writes them"""
    unknown: Literal["drop", "skip"] = "drop"
    """characters outside the vocabulary are dropped from the text, or the utterance is skipped"""

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise ConfigError("tokenizer: got an empty name, allowed are 'auto', 'characters', or a folder or hub id.")


@dataclass(frozen=True)
class TargetTokens:
    """What a head is to write for an utterance.

    Attributes:
        tokens: As numbers, with nothing that the vocabulary cannot write.
        unknown: Characters that were dropped, in their order.
        problem: Why it cannot be learned; None where it can.
    """

    tokens: tuple[int, ...] = ()
    unknown_characters: str = ""
    problem: str | None = None


class TranscriptTask(ABC):
    """Writes the text of an utterance as tokens of a vocabulary."""

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
            words: What can be written.
            unknown: What becomes of a text with characters outside it.
            outputs: Of the head.
            new_head: Whether the head starts from nothing.
        """
        self.vocabulary = vocabulary
        self.unknown = unknown
        self.outputs = outputs
        self.new_head = new_head
        self.head = nn.Module()
        self._cached_target_tokens = lru_cache(maxsize=TARGET_CACHE_SIZE)(self.make_target_tokens)

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """Fields of the model's config that its head needs."""

    @abstractmethod
    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any) -> Tensor:
        """The sum over utterances of the negative log-likelihood of their scripts."""

    @abstractmethod
    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """What `read` reads."""

    @abstractmethod
    def decode_texts(self, predictions: Tensor, frames: Tensor) -> list[str]:
        """What a head wrote: answers and valid frames, (B,), to B texts."""

    @abstractmethod
    def alignment_problem(self, tokens: Sequence[int], frames: int) -> str | None:
        """Why so many frames cannot carry a script; None where they can."""

    def init_head(self, model: Any) -> None:  # noqa: B027 - most heads have nothing to be told
        """A new head knows nothing."""

    def target_tokens(self, utterance: Utterance) -> TargetTokens:
        """What the head is to write for an utterance."""
        return self._cached_target_tokens(*self.label_and_text(utterance))

    def label_and_text(self, utterance: Utterance) -> tuple[str | None, str | None]:
        """What a script is made of: a label and a text."""
        return None, utterance.text

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Utterances with a text that the vocabulary can write and audio long enough for it.

        Raises:
            DataError: Nothing is left, or no utterance has a text.
        """
        require_texts(corpus)
        dropped: Counter[str] = Counter()
        notes: list[str] = []

        def problem(utterance: Utterance) -> str | None:
            targets = self.target_tokens(utterance)
            if targets.problem is not None:
                return targets.problem
            if targets.unknown_characters and self.unknown == "skip":
                return f"holds characters outside the vocabulary: {format_characters(targets.unknown_characters)}"
            frame_problem = self.alignment_problem(targets.tokens, frames(utterance.samples))
            if frame_problem is not None:
                return f"is too short for its text: {frame_problem}"
            dropped.update(targets.unknown_characters)
            return None

        filtered = filter_utterances(corpus, problem)
        if dropped:
            common = ", ".join(
                f"{format_character(character)} ({count})" for character, count in dropped.most_common(8)
            )
            remainder_text = f" and {len(dropped) - 8} more" if len(dropped) > 8 else ""
            notes.append(
                f"characters outside the vocabulary dropped from the texts, {dropped.total()} in all: {common}{remainder_text}"
            )
        return FilteredCorpus(filtered.corpus, (*filtered.notes, *notes), filtered.skipped)

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int] = ()
    ) -> StepTargets:
        """What is said, by tokens of the scripts."""
        return UtteranceTargets(utterances, sum(len(self.target_tokens(utterance).tokens) for utterance in utterances))

    def metric(self) -> Metric:
        """Word and character error rate of greedy reading."""
        return TranscriptMetric(self)

    def reference_text(self, utterance: Utterance) -> str:
        """What a perfect head would be read as: the script, through the same decoding as any output."""
        return self.vocabulary.decode(self.target_tokens(utterance).tokens)

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.vocabulary.save(folder)

    def restore(self, folder: Path) -> None:  # noqa: B027 - the same for all of them
        """Nothing: the model has the head."""

    def make_target_tokens(self, label: str | None, text: str | None) -> TargetTokens:
        """The script of a text; the label has no part in it."""
        if text is None or not text.strip():
            return TargetTokens(problem="has no text")
        cleaned_text, unknown = self.vocabulary.clean(text)
        return self.encode_target(cleaned_text, unknown)

    def encode_target(self, text: str, unknown: str) -> TargetTokens:
        """A script from a cleaned text and what was dropped from it."""
        tokens = self.vocabulary.encode(text)
        if not tokens:
            return TargetTokens(
                unknown_characters=unknown, problem=f"has no character of the vocabulary: {format_characters(unknown)}"
            )
        if not self.vocabulary.is_writable(tokens):
            return TargetTokens(unknown_characters=unknown, problem="holds what the tokenizer cannot write")
        return TargetTokens(tokens, unknown)


class TranscriptMetric:
    """Word and character error rate of greedy reading, against the scripts.

    A reference is what the task asks for: in the vocabulary's case, without the characters outside it.
    """

    def __init__(self, task: TranscriptTask) -> None:
        self.task = task
        self.rates = {"wer": ErrorRate("word"), "cer": ErrorRate("character")}

    def update(self, predictions: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Take in a batch: answers as the task reads them, valid frames (B,)."""
        references = [self.task.reference_text(utterance) for utterance in utterances]
        hypotheses = self.task.decode_texts(predictions, frames)
        for rate in self.rates.values():
            rate.update(references, hypotheses)

    def compute(self) -> dict[str, float]:
        """``wer`` and ``cer``."""
        return {name: rate.value for name, rate in self.rates.items()}


def select_tokenizer(config: Transcription, *, source: str | Path, corpus: Corpus, head: str = "") -> tuple[Any, Any]:
    """The tokenizer that is asked for, and the model's own where that matters, else None.

    Args:
        config: What is asked for.
        source: The model's folder or hub id.
        corpus: Whose texts a new vocabulary is made of.
        head: What the model has that writes by a tokenizer, in words; empty where that is new.

    Raises:
        ConfigError: A tokenizer cannot be loaded, or nothing says what the model's head writes.
        DataError: A vocabulary is to be made of texts that are not there.
    """
    needs_model_tokenizer = head or config.tokenizer == "auto"
    model_tokenizer = (
        vocabulary.load_tokenizer(source) if needs_model_tokenizer and vocabulary.has_tokenizer(source) else None
    )
    if config.tokenizer not in ("auto", "characters"):
        return vocabulary.load_tokenizer(config.tokenizer), model_tokenizer
    if head and model_tokenizer is None:
        raise ConfigError(
            f"{str(source)!r} has a {head} but no tokenizer that says what it writes; name that as 'tokenizer', a "
            "folder or hub id."
        )
    if config.tokenizer == "auto" and model_tokenizer is not None:
        return model_tokenizer, model_tokenizer
    return vocabulary.make_tokenizer(vocabulary.characters(require_texts(corpus), config.case)), model_tokenizer


def check_vocabulary_fits(
    vocabulary: Vocabulary, outputs: int, model_tokenizer: Any, *, name: str, head: str, extra_outputs: str = ""
) -> None:
    """Raise a ConfigError for a vocabulary that is not the one that a model's head writes.

    Args:
        words: The vocabulary.
        outputs: Outputs of the head that are its tokens.
        own: The model's own tokenizer; None where it has none.
        name: What the vocabulary was asked for by.
        head: The head, in words.
        beside: What else has outputs, in words.
    """
    if not vocabulary.fits_head(outputs):
        raise ConfigError(
            f"tokenizer: {name!r} has {len(vocabulary)} tokens, but the model's {head} has {outputs} outputs{extra_outputs}; "
            "'auto' takes the model's own tokenizer, and a model without a task head gets a new head."
        )
    if model_tokenizer is not None and model_tokenizer.get_vocab() != vocabulary.tokens:
        raise ConfigError(
            f"tokenizer: {name!r} has as many tokens as the model's own, but not the same ones, so the model's {head} "
            "would be misread; 'auto' takes the model's own tokenizer."
        )


def require_texts(corpus: Corpus) -> list[str]:
    """The texts of a corpus.

    Raises:
        DataError: There are none.
    """
    texts = [utterance.text for utterance in corpus.utterances if utterance.text and utterance.text.strip()]
    if not texts:
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} has a text, which this task learns to "
            "write; name a manifest with texts, such as JSONL with 'text', or LibriSpeech."
        )
    return texts


def format_characters(unknown: str) -> str:
    """Each character once."""
    return " ".join(
        character if _is_visible(character) else format_character(character) for character in dict.fromkeys(unknown)
    )


def format_character(character: str) -> str:
    """Return a character in quotes, or its number and name where it does not show by itself."""
    if _is_visible(character):
        return repr(character)
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _is_visible(character: str) -> bool:
    return character.isprintable() and not unicodedata.combining(character)
