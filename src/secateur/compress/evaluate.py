"""How well a model with a task head does its task on some audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.arch import declare
from secateur.compress.batches import held_out
from secateur.compress.fidelity import score
from secateur.compress.setting import model_path, usable
from secateur.data.config import DataConfig
from secateur.data.open import open_corpus
from secateur.errors import ModelError
from secateur.masking.attach import base_of
from secateur.objective.tasks import Classification, Ctc, Slu, TaskConfig, build_task
from secateur.objective.tasks.ctc import CtcTask
from secateur.objective.tasks.tags import is_intent
from secateur.records import environment, plain
from secateur.surgery.hearing import hearing_of
from secateur.surgery.load import load_model

#: What a head is for, by the ending of its class, where the task is not named.
_OF_HEAD: dict[str, TaskConfig] = {"ForCTC": Ctc(), "ForSequenceClassification": Classification()}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated on what."""

    model: str
    """a model folder or hub id, dense or cut, with a task head"""
    data: DataConfig
    task: TaskConfig | None = None
    """null: what the model's head is for; of a CTC head transcription, or understanding where it writes intents"""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The record of an evaluation: the task's figures over all utterances that can be used, each by itself.

    Raises:
        SecateurError: The model has no head for the task, or the audio does not tell what the task asks for.
    """
    source = model_path(config.model)
    model = load_model(source)
    ending = next((ending for ending in _OF_HEAD if type(model).__name__.endswith(ending)), None)
    if ending is None:
        allowed = " or ".join(_OF_HEAD)
        raise ModelError(f"{config.model!r} is a {type(model).__name__}: allowed are models with a head, {allowed}.")
    corpus, asked = open_corpus(config.data), config.task or _OF_HEAD[ending]
    task = build_task(asked, source=source, model_config=model.config, corpus=corpus)
    if config.task is None and isinstance(task, CtcTask) and any(map(is_intent, task.vocabulary.tokens)):
        asked = Slu()
        task = build_task(asked, source=source, model_config=model.config, corpus=corpus)
    if task.new_head:
        raise ModelError(f"{config.model!r} has no head for the task {asked.kind!r}: evaluate a fine-tuned model.")
    structure = declare(model.config)
    corpus, notes = usable(task, corpus, structure)
    batches = held_out(
        corpus, structure, seconds=float("inf"), longest=float("inf"), hearing=hearing_of(source, structure), task=task
    )
    return {
        "format": 1,
        "kind": "evaluate",
        "model": config.model,
        "parameters": sum(value.numel() for value in base_of(model).parameters()),
        "environment": environment(),
        "data": {"name": corpus.name, "utterances": len(batches), "hours": corpus.seconds / 3600},
        "skipped": plain(corpus.skipped),
        "notes": list(notes),
        "headline": task.headline,
        "scores": score(task, model, batches),
    }
