"""Speech recognition by CTC: characters or a given tokenizer, scored by word and character error rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError
from secateur.objective.tasks import blanks, vocabulary
from secateur.objective.tasks.task import keeps, logits_of
from secateur.objective.tasks.transcript import TranscriptTask, require_texts
from secateur.objective.tasks.vocabulary import Case, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Ctc:
    """Transcription: the text as characters, or as the tokens of a given tokenizer."""

    kind: Literal["ctc"] = "ctc"
    tokenizer: str = "auto"
    """``auto``: the model's own if it has one, else the characters of the training texts; ``characters``; or a folder
    or hub id"""
    case: Case = "auto"
    """how letters are written before they are encoded; ``auto``: as the vocabulary writes them"""
    unknown: Literal["drop", "skip"] = "drop"
    """characters outside the vocabulary are dropped from the text, or the utterance is skipped"""

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise ConfigError("tokenizer: got an empty name, allowed are 'auto', 'characters', or a folder or hub id.")


class CtcTask(TranscriptTask):
    """Writes a script, by CTC."""

    ending: str = "ForCTC"

    def fields(self) -> dict[str, Any]:
        """Size of the head, and the blank: the one that the tokenizer reads, whatever the model's config says."""
        return {"vocab_size": self.outputs, "pad_token_id": self.vocabulary.blank}

    def misfit(self, tokens: Sequence[int], frames: int) -> str | None:
        """CTC needs a frame for each token, and one more between equal neighbours."""
        needed = blanks.frames_needed(tokens)
        return f"{frames} frames for {needed}" if frames < needed else None

    def sums(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any = None) -> Tensor:
        """The sum over utterances of the negative log-likelihood of their scripts; `output` is logits (B, T, V)."""
        scripts = [self.script(utterance).tokens for utterance in utterances]
        return blanks.loss_sum(output, frames, scripts, blank=self.vocabulary.blank)

    def answers(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (B, T, V)."""
        return logits_of(model, inputs)

    def read(self, answers: Tensor, frames: Tensor) -> list[str]:
        """What a head wrote: logits (B, T, V) and valid frames (B,) to B texts."""
        rows = blanks.greedy(answers, frames, blank=self.vocabulary.blank)
        return [self.vocabulary.decode(row) for row in rows]


def build_ctc(config: Ctc, *, source: str | Path, model_config: PreTrainedConfig, corpus: Corpus) -> CtcTask:
    """The task for a model: with its own head and tokenizer where it has them, else with new ones.

    Raises:
        ConfigError: The tokenizer does not fit the head that the model has, or cannot be loaded.
        DataError: A vocabulary is to be made of texts that are not there.
    """
    settings: Any = model_config
    has_head = keeps(settings.architectures, "ForCTC")
    asked = has_head or config.tokenizer == "auto"
    own = vocabulary.load(source) if asked and vocabulary.has_tokenizer(source) else None
    if config.tokenizer in ("auto", "characters") and own is None and has_head:
        raise ConfigError(
            f"{str(source)!r} has a CTC head but no tokenizer that says what it writes; name that as 'tokenizer', a "
            "folder or hub id."
        )
    if config.tokenizer == "auto" and own is not None:
        tokenizer = own
    elif config.tokenizer in ("auto", "characters"):
        tokenizer = vocabulary.spell(vocabulary.characters(require_texts(corpus), config.case))
    else:
        tokenizer = vocabulary.load(config.tokenizer)
    words = Vocabulary(tokenizer, case=config.case)
    outputs = settings.vocab_size if has_head else len(words)
    if has_head:
        _refuse_misfit(words, outputs, own, name=config.tokenizer)
    return CtcTask(words, unknown=config.unknown, outputs=outputs, new_head=not has_head)


def _refuse_misfit(words: Vocabulary, outputs: int, own: Any, *, name: str) -> None:
    if not words.fits(outputs):
        raise ConfigError(
            f"tokenizer: {name!r} has {len(words)} tokens, but the model's CTC head has {outputs} outputs; 'auto' "
            "takes the model's own tokenizer, and a model without a task head gets a new head."
        )
    if own is not None and own.get_vocab() != words.tokens:
        raise ConfigError(
            f"tokenizer: {name!r} has as many tokens as the model's own, but not the same ones, so the model's CTC "
            "head would be misread; 'auto' takes the model's own tokenizer."
        )
