"""Speech recognition by CTC: characters or a given tokenizer, scored by word and character error rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus, Utterance
from secateur.objective.tasks import blanks
from secateur.objective.tasks.task import keeps, logits_of
from secateur.objective.tasks.transcript import Transcription, TranscriptTask, refuse_misfit, tokenizer_of
from secateur.objective.tasks.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Ctc(Transcription):
    """Transcription: the text as characters, or as the tokens of a given tokenizer."""

    kind: Literal["ctc"] = "ctc"


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
    head = "CTC head"
    tokenizer, own = tokenizer_of(config, source=source, corpus=corpus, head=head if has_head else "")
    words = Vocabulary(tokenizer, case=config.case)
    outputs = settings.vocab_size if has_head else len(words)
    if has_head:
        refuse_misfit(words, outputs, own, name=config.tokenizer, head=head)
    return CtcTask(words, unknown=config.unknown, outputs=outputs, new_head=not has_head)
