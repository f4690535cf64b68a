"""How well a model with a task head does its task on some audio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.compress.batches import held_out
from secateur.compress.fidelity import score
from secateur.compress.setting import model_path, usable
from secateur.data.config import DataConfig
from secateur.data.open import open_corpus
from secateur.errors import ConfigError, ModelError
from secateur.masking.attach import base_of
from secateur.objective.tasks import (
    Classification,
    Ctc,
    Rnnt,
    Slu,
    Surroundings,
    Task,
    TaskConfig,
    build_task,
    decoding,
)
from secateur.objective.tasks.ctc import CtcTask
from secateur.objective.tasks.rnnt import RnntTask
from secateur.objective.tasks.tags import is_intent
from secateur.records import environment, plain, read_json
from secateur.surgery.hearing import hearing_of
from secateur.surgery.hub import companion
from secateur.surgery.load import load_checkpoint

logger = logging.getLogger(__name__)

#: What a head is for, by the ending of its class, where the task is not named.
_OF_HEAD: dict[str, TaskConfig] = {"ForCTC": Ctc(), "ForRNNT": Rnnt(), "ForSequenceClassification": Classification()}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated on what."""

    model: str
    """a model folder or hub id, dense or cut, with a task head"""
    data: DataConfig
    task: TaskConfig | None = None
    """null: what the model's head is for; of a CTC head transcription, or understanding where it writes intents"""
    streaming: bool = False
    """whether a streaming transducer hears each utterance chunk by chunk"""
    lookahead: int | None = None
    """frames that it hears ahead, chunk by chunk or offline; null: as many as its config says"""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The record of an evaluation: the task's figures over all utterances that can be used, each by itself.

    Raises:
        SecateurError: The model has no head for the task, or the audio does not tell what the task asks for.
    """
    source = model_path(config.model)
    checkpoint = load_checkpoint(source).intact()
    model = checkpoint.model
    of_head = (task for ending, task in _OF_HEAD.items() if type(model).__name__.endswith(ending))
    asked = config.task or next(of_head, None)
    if asked is None and checkpoint.headless:
        raise ModelError(f"{checkpoint.headless}: evaluate a fine-tuned model.")
    if asked is None:
        allowed = " or ".join(_OF_HEAD)
        raise ModelError(
            f"{config.model!r} is a {type(model).__name__}: allowed are models with a head, {allowed}; and with the "
            "task 'best_rq' encoders that were pre-trained by it."
        )
    structure = declare(model.config)
    hearing = hearing_of(source, structure)
    corpus = open_corpus(config.data, sample_rate=hearing.sample_rate)
    around = Surroundings(hearing=hearing, structure=structure, beside=partial(companion, source))
    task = build_task(asked, source=source, model_config=model.config, corpus=corpus, around=around)
    if config.task is None and isinstance(task, CtcTask) and any(map(is_intent, task.vocabulary.tokens)):
        asked = Slu()
        task = build_task(asked, source=source, model_config=model.config, corpus=corpus)
    if task.new_head and not task.ending:
        raise ModelError(f"{config.model!r} has nothing to guess with: {'; '.join(task.notes)}.")
    if task.new_head:
        why = checkpoint.headless or f"{config.model!r} has no head for the task {asked.kind!r}"
        raise ModelError(f"{why}: evaluate a fine-tuned model.")
    if config.streaming or config.lookahead is not None:
        _set_streaming(task, model, config, allowed=_lookaheads(source, model))
    for note in task.notes:
        logger.warning("%s", note)
    corpus, notes = usable(task, corpus, structure)
    batches = held_out(corpus, structure, seconds=float("inf"), longest=float("inf"), hearing=hearing, task=task)
    return {
        "format": 1,
        "kind": "evaluate",
        "model": config.model,
        "parameters": sum(value.numel() for value in base_of(model).parameters()),
        "environment": environment(),
        "data": {
            "name": corpus.name,
            "utterances": len(batches),
            "hours": corpus.seconds / 3600,
            "sample_rate": corpus.sample_rate,
        },
        "skipped": plain(corpus.skipped),
        "notes": [*task.notes, *notes],
        **_heard(config, model),
        "headline": task.headline,
        "scores": score(task, model, batches),
    }


def _set_streaming(task: Task, model: PreTrainedModel, config: EvaluateConfig, *, allowed: Sequence[int]) -> None:
    """Make a transducer decode chunk by chunk, or with another lookahead than its config's."""
    if not isinstance(task, RnntTask):
        raise ConfigError("streaming, lookahead: allowed with the task 'rnnt' alone; leave both out.")
    decoding.refuse_offline(model)
    if config.lookahead is not None and config.lookahead not in allowed:
        raise ConfigError(
            f"lookahead: got {config.lookahead}, which {config.model!r} was not built for; allowed "
            f"{'are' if len(allowed) > 1 else 'is'} {', '.join(map(str, allowed))}, and what its "
            "processor_config.json lists as supported_num_lookahead_tokens."
        )
    task.decode = partial(decoding.stream if config.streaming else decoding.greedy, lookahead=config.lookahead)


def _lookaheads(source: str | Path, model: PreTrainedModel) -> tuple[int, ...]:
    """Lookaheads that a streaming model was built for: those of its processor, and its config's own."""
    path = companion(source, "processor_config.json")
    listed = read_json(path).get("supported_num_lookahead_tokens") if path is not None else None
    own = [decoding.default_lookahead(model)] if decoding.streams(model) else []
    return tuple(sorted({*(listed or ()), *own}))


def _heard(config: EvaluateConfig, model: PreTrainedModel) -> dict[str, Any]:
    """How a streaming model heard the utterances, for the record."""
    if not decoding.streams(model):
        return {}
    ahead = decoding.default_lookahead(model) if config.lookahead is None else config.lookahead
    return {"streaming": config.streaming, "lookahead": ahead}
