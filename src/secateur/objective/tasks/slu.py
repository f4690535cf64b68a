"""Spoken language understanding by CTC: intent, words and entities written as one sequence, scored as SLURP does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import DataError
from secateur.objective.tasks import tags, vocabulary
from secateur.objective.tasks.ctc import CtcTask, own_blank
from secateur.objective.tasks.error_rate import ErrorRate
from secateur.objective.tasks.slu_metrics import EntityScore
from secateur.objective.tasks.tags import Meaning, Piece
from secateur.objective.tasks.task import Scorer, keeps
from secateur.objective.tasks.transcript import Script, require_texts
from secateur.objective.tasks.vocabulary import Case, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Slu:
    """Intent and slots as a tagged sequence of characters.

    The intent is the label of an utterance, its entities are those of `tagged`; without `tagged` it has none.
    """

    kind: Literal["slu"] = "slu"
    case: Case = "auto"
    """how letters are written; ``auto``: as the vocabulary writes them, and a new one as the training texts do"""
    unknown: Literal["drop", "skip"] = "drop"
    """characters outside the vocabulary are dropped from the text, or the utterance is skipped"""


class SluTask(CtcTask):
    """Writes what an utterance means, by CTC."""

    better: Literal["lower", "higher"] = "higher"

    def __init__(self, words: Vocabulary, *, unknown: Literal["drop", "skip"], outputs: int, new_head: bool) -> None:
        super().__init__(words, unknown=unknown, outputs=outputs, new_head=new_head)
        self.tokens = words.tokens
        # Where only intents are told, as in Fluent Speech Commands, an F1 of entities would be zero for ever.
        self.headline = "slu_f1" if tags.CLOSE in self.tokens else "intent_accuracy"

    def told(self, utterance: Utterance) -> tuple[str | None, str | None]:
        """Intent and tagged text; the plain one has no entities."""
        return utterance.label, _tagged(utterance)

    def meaning(self, utterance: Utterance) -> Meaning:
        """What a perfect head would be read as."""
        return tags.read(self.written(utterance))

    def scorer(self) -> Scorer:
        """Intent accuracy, F1 of entities, word error rate."""
        return SluScorer(self)

    def make_script(self, label: str | None, text: str | None) -> Script:
        """Intent, words and entities as one sequence."""
        problem, parts = self._problem(label, text)
        if label is None or problem is not None:
            return Script(problem=problem)
        unknown, kept = "", []
        for part in parts:
            words, strange = self.vocabulary.clean(part.words)
            unknown += strange
            if words:
                kept.append(replace(part, words=words))
        return self.encoded(tags.write(label, kept), unknown) if kept else self.encoded("", unknown)

    def _problem(self, intent: str | None, tagged: str | None) -> tuple[str | None, tuple[Piece, ...]]:
        if not intent:
            return "has no label, which names its intent", ()
        if tags.intent_token(intent) not in self.tokens:
            return f"has an intent outside the vocabulary: {intent!r}", ()
        parts = tags.pieces(tagged or "")
        if parts is None:
            return "has tags that cannot be read", ()
        if not parts:
            return "has no text", ()
        strange = [type for type in tags.types([parts]) if tags.slot_token(type) not in self.tokens]
        return (f"has an entity outside the vocabulary: {strange[0]!r}" if strange else None), parts


class SluScorer:
    """Intent accuracy, F1 of entities and word error rate of greedy reading, against the scripts."""

    def __init__(self, task: SluTask) -> None:
        self.task = task
        self.entities = EntityScore()
        self.words = ErrorRate("word")
        self.right = self.utterances = 0

    def add(self, answers: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Take in a batch: logits (B, T, V), valid frames (B,)."""
        said = [self.task.meaning(utterance) for utterance in utterances]
        heard = [tags.read(text) for text in self.task.read(answers, frames)]
        for one, other in zip(said, heard, strict=True):
            self.entities.add(one.entities, other.entities)
            self.right += one.intent == other.intent
        self.words.add([one.words for one in said], [other.words for other in heard])
        self.utterances += len(said)

    def figures(self) -> dict[str, float]:
        """``slu_f1``, ``intent_accuracy``, ``entity_f1``, ``word_f1``, ``char_f1`` and ``wer``."""
        figures = self.entities.figures()
        accuracy = {"intent_accuracy": self.right / max(1, self.utterances)}
        return {"slu_f1": figures["slu_f1"], **accuracy, **figures, "wer": self.words.value}


def build_slu(config: Slu, *, source: str | Path, model_config: PreTrainedConfig, corpus: Corpus) -> SluTask:
    """The task for a model: with its own head where that head writes intents, else with a new one.

    Raises:
        DataError: No utterance has an intent and a text.
    """
    settings: Any = model_config
    if keeps(settings.architectures, "ForCTC") and vocabulary.has_tokenizer(source):
        tokenizer = vocabulary.load(source)
        if any(tags.is_intent(token) for token in tokenizer.get_vocab()):
            blank, notes = own_blank(tokenizer, settings)
            words = Vocabulary(tokenizer, case=config.case, blank=blank, outputs=settings.vocab_size)
            if words.fits(settings.vocab_size):
                task = SluTask(words, unknown=config.unknown, outputs=settings.vocab_size, new_head=False)
                task.notes = notes
                return task
    words = Vocabulary(_new_tokenizer(config, corpus), case=config.case)
    return SluTask(words, unknown=config.unknown, outputs=len(words), new_head=True)


def _new_tokenizer(config: Slu, corpus: Corpus) -> Any:
    """Characters of the words, one token for each intent and type of entity, and the closing one if there are any."""
    require_texts(corpus)
    intents = sorted({utterance.label for utterance in corpus.utterances if utterance.label})
    if not intents:
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} has a label, which names its intent; "
            "name a manifest with labels, such as JSONL with 'label', or SLURP."
        )
    texts = map(_tagged, corpus.utterances)
    parsed = [parts for parts in (tags.pieces(text) for text in texts if text) if parts]
    slots = tags.types(parsed)
    bad = [name for name in (*intents, *slots) if any(sign in name for sign in tags.RESERVED)]
    if bad:
        raise DataError(f"Got an intent or entity named {bad[0]!r}; a name may hold none of {' '.join(tags.RESERVED)}.")
    spoken = vocabulary.characters((part.words for parts in parsed for part in parts), config.case)
    signs = [sign for sign in spoken if sign not in tags.RESERVED]
    tokens = [tags.intent_token(intent) for intent in intents]
    if slots:
        tokens += [*(tags.slot_token(type) for type in slots), tags.CLOSE]
    return vocabulary.spell(signs, extra=tokens)


def _tagged(utterance: Utterance) -> str | None:
    return utterance.text if utterance.tagged is None else utterance.tagged
