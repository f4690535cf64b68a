"""Spoken language understanding by CTC: intent, words and entities as a sequence, with the scores of SLURP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import DataError
from secateur.records.score import ScoreInfo
from secateur.tasks import slurp_tags, vocabulary
from secateur.tasks.ctc import CtcTask, model_blank
from secateur.tasks.error_rate import ErrorRate
from secateur.tasks.slu_metrics import EntityMetric
from secateur.tasks.slurp_tags import SemanticFrame, TextSpan
from secateur.tasks.task import BuildInputs, Metric, has_task_head
from secateur.tasks.transcription import WORD_ERROR_RATE, TargetTokens, require_texts
from secateur.tasks.vocabulary import LetterCase, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Slu:
    """Intent and slots as a tagged sequence of characters.

    The intent is the label of an utterance and the entities are tagged in its `tagged` text; an utterance without
    `tagged` has no entities.
    """

    kind: Literal["slu"] = "slu"
    head_class: ClassVar[str] = "ForCTC"
    case: LetterCase = "auto"
    """case of letters; ``auto``: the case of the vocabulary, and of the training texts for a new vocabulary"""
    unknown: Literal["drop", "skip"] = "drop"
    """characters outside the vocabulary are dropped from the text, or the utterance is skipped"""

    def build(self, inputs: BuildInputs) -> SluTask:
        """Return the task for a model; see `build_task`."""
        return build_slu(self, inputs)


class SluTask(CtcTask):
    """Transcription of intent, words and entities by CTC."""

    title: str = "Spoken language understanding"
    scores: Mapping[str, ScoreInfo] = MappingProxyType(
        {
            "slu_f1": ScoreInfo(title="SLU-F1", direction="higher"),
            "intent_accuracy": ScoreInfo(title="Intent accuracy", direction="higher"),
            "entity_f1": ScoreInfo(title="Entity F1", direction="higher"),
            "word_f1": ScoreInfo(title="Word F1", direction="higher"),
            "char_f1": ScoreInfo(title="Character F1", direction="higher"),
            "wer": WORD_ERROR_RATE,
        }
    )

    def __init__(
        self, vocabulary: Vocabulary, *, unknown: Literal["drop", "skip"], outputs: int, new_head: bool
    ) -> None:
        super().__init__(vocabulary, unknown=unknown, outputs=outputs, new_head=new_head)
        self.tokens = vocabulary.tokens
        # A corpus with intents alone, such as Fluent Speech Commands, would always have an entity F1 of zero.
        self.primary_metric = "slu_f1" if slurp_tags.SLOT_END in self.tokens else "intent_accuracy"

    def label_and_text(self, utterance: Utterance) -> tuple[str | None, str | None]:
        """Return the intent and the tagged text, or the plain text of an utterance without tags."""
        return utterance.label, _tagged_text(utterance)

    def reference_frame(self, utterance: Utterance) -> SemanticFrame:
        """Return the intent, entities and words of a perfect prediction."""
        return slurp_tags.parse_frame(self.reference_text(utterance))

    def metric(self) -> Metric:
        """Return a new metric of intent accuracy, entity F1 and word error rate."""
        return SluMetric(self)

    def make_target_tokens(self, label: str | None, text: str | None) -> TargetTokens:
        """Return the tokens of intent, words and entities in a single sequence."""
        problem, parts = self._problem(label, text)
        if label is None or problem is not None:
            return TargetTokens(problem=problem)
        dropped = ""
        known_spans = []
        for part in parts:
            words, unknown_characters = self.vocabulary.clean(part.words)
            dropped += unknown_characters
            if words:
                known_spans.append(replace(part, words=words))
        # Without any word left, the empty text makes the utterance a problem, although its intent is known.
        text = slurp_tags.format_target(label, known_spans) if known_spans else ""
        return self.encode_target(text, dropped)

    def _problem(self, intent: str | None, tagged: str | None) -> tuple[str | None, tuple[TextSpan, ...]]:
        """Return the reason to skip an utterance, if any, and the spans of the tagged text."""
        if not intent:
            return "has no label, which names its intent", ()
        if slurp_tags.intent_token(intent) not in self.tokens:
            return f"has an intent outside the vocabulary: {intent!r}", ()
        parts = slurp_tags.parse_brackets(tagged or "")
        if parts is None:
            return "has tags that cannot be read", ()
        if not parts:
            return "has no text", ()
        for type in slurp_tags.entity_types([parts]):
            if slurp_tags.slot_token(type) not in self.tokens:
                return f"has an entity outside the vocabulary: {type!r}", parts
        return None, parts


class SluMetric:
    """Intent accuracy, entity F1 and word error rate of greedy decoding, against the target sequences."""

    def __init__(self, task: SluTask) -> None:
        self.task = task
        self.entities = EntityMetric()
        self.words = ErrorRate("word")
        self.correct_intents = 0
        self.utterances = 0

    def update(self, predictions: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Add a batch: logits (B, T, V) and valid frames (B,)."""
        references = [self.task.reference_frame(utterance) for utterance in utterances]
        hypotheses = [slurp_tags.parse_frame(text) for text in self.task.decode_texts(predictions, frames)]
        for reference, hypothesis in zip(references, hypotheses, strict=True):
            self.entities.update(reference.entities, hypothesis.entities)
            self.correct_intents += reference.intent == hypothesis.intent
        self.words.update(
            [reference.words for reference in references], [hypothesis.words for hypothesis in hypotheses]
        )
        self.utterances += len(references)

    def compute(self) -> dict[str, float]:
        """Return ``slu_f1``, ``intent_accuracy``, ``entity_f1``, ``word_f1``, ``char_f1`` and ``wer``."""
        entity_scores = self.entities.compute()
        accuracy = {"intent_accuracy": self.correct_intents / max(1, self.utterances)}
        return {"slu_f1": entity_scores["slu_f1"], **accuracy, **entity_scores, "wer": self.words.value}


def build_slu(config: Slu, inputs: BuildInputs) -> SluTask:
    """Return the task for a model, with the model's CTC head where the vocabulary has intents, else with a new head.

    Raises:
        DataError: No utterance has an intent and a text.
    """
    settings: Any = inputs.model_config
    if has_task_head(settings.architectures, config.head_class) and vocabulary.has_tokenizer(inputs.source):
        tokenizer = vocabulary.load_tokenizer(inputs.source)
        if any(slurp_tags.is_intent(token) for token in tokenizer.get_vocab()):
            blank, notes = model_blank(tokenizer, settings)
            task_vocabulary = Vocabulary(tokenizer, case=config.case, blank=blank, outputs=settings.vocab_size)
            if task_vocabulary.fits_head(settings.vocab_size):
                task = SluTask(task_vocabulary, unknown=config.unknown, outputs=settings.vocab_size, new_head=False)
                task.notes = notes
                return task
    task_vocabulary = Vocabulary(_new_tokenizer(config, inputs.corpus), case=config.case)
    return SluTask(task_vocabulary, unknown=config.unknown, outputs=len(task_vocabulary), new_head=True)


def _new_tokenizer(config: Slu, corpus: Corpus) -> Any:
    """Return a tokenizer of characters, intents and entity types, with the closing token where entities exist."""
    require_texts(corpus)
    intents = sorted({utterance.label for utterance in corpus.utterances if utterance.label})
    if not intents:
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} has a label, which names its intent; "
            "name a manifest with labels, such as JSONL with 'label', or SLURP."
        )
    texts = map(_tagged_text, corpus.utterances)
    parsed = [parts for parts in (slurp_tags.parse_brackets(text) for text in texts if text) if parts]
    # Sorted, so that the ids do not depend on the order of the corpus.
    slots = slurp_tags.entity_types(parsed)
    invalid_names = [name for name in (*intents, *slots) if set(name) & set(slurp_tags.RESERVED)]
    if invalid_names:
        raise DataError(
            f"Got an intent or entity named {invalid_names[0]!r}, expected a name without any of "
            f"{' '.join(slurp_tags.RESERVED)}."
        )
    word_characters = vocabulary.characters((part.words for parts in parsed for part in parts), config.case)
    symbols = [character for character in word_characters if character not in slurp_tags.RESERVED]
    tokens = [slurp_tags.intent_token(intent) for intent in intents]
    if slots:
        tokens += [*(slurp_tags.slot_token(type) for type in slots), slurp_tags.SLOT_END]
    return vocabulary.make_tokenizer(symbols, extra=tokens)


def _tagged_text(utterance: Utterance) -> str | None:
    return utterance.text if utterance.tagged is None else utterance.tagged
