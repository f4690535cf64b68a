"""Evaluation of a model with a task head on a corpus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from secateur.compress.audio_batches import held_out_micro_batches
from secateur.compress.fidelity import score_task
from secateur.compress.run_context import filter_corpus, model_path
from secateur.data.open import open_corpus
from secateur.data.sources import DataConfig
from secateur.errors import ConfigError, ModelError
from secateur.hf.feature_extractor import load_input_features
from secateur.hf.hub_files import find_file
from secateur.hf.load import load_checkpoint
from secateur.records.environment import Environment
from secateur.records.evaluation import EvaluateRecord
from secateur.records.files import read_json
from secateur.records.run import CorpusRecord, SkippedFile
from secateur.tasks import EncoderInfo, Slu, Task, TaskConfig, build_task, decoding
from secateur.tasks.ctc import CtcTask
from secateur.tasks.rnnt import RnntTask
from secateur.tasks.slurp_tags import is_intent
from secateur.tasks.task_config import supported_heads, task_for_head

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Model, data and task of an evaluation."""

    model: str
    """a model folder or hub id, dense or cut, with a task head"""
    data: DataConfig
    """speech with the labels of the task"""
    task: TaskConfig | None = None
    """null: the task of the model's head; for a CTC head transcription, or `slu` where its vocabulary has intents"""
    streaming: bool = False
    """whether a streaming transducer decodes each utterance chunk by chunk"""
    lookahead: int | None = None
    """future frames that a streaming transducer attends to, in chunks or offline; null: as in its config"""


def evaluate(config: EvaluateConfig) -> EvaluateRecord:
    """Evaluate a model on all usable utterances, with a batch size of 1, and return the record.

    Raises:
        SecateurError: The model has no head for the task, or the corpus lacks the labels of the task.
    """
    source = model_path(config.model)
    # A damaged head would give scores without an error.
    checkpoint = load_checkpoint(source).require_intact()
    model = checkpoint.model
    task_config = config.task or task_for_head(type(model).__name__)
    if task_config is None and checkpoint.missing_head:
        raise ModelError(f"{checkpoint.missing_head}: evaluate a fine-tuned model.")
    if task_config is None:
        allowed = " or ".join(supported_heads())
        raise ModelError(
            f"{config.model!r} is a {type(model).__name__}, expected a model with a head, {allowed}, or, with the task "
            "'best_rq', an encoder that was pre-trained with this task."
        )
    structure = checkpoint.view.structure
    input_features = load_input_features(source, structure)
    corpus = open_corpus(config.data, sample_rate=input_features.sample_rate)
    encoder_info = EncoderInfo(input_features=input_features, structure=structure, find_file=partial(find_file, source))
    task = build_task(task_config, source=source, model_config=model.config, corpus=corpus, encoder_info=encoder_info)
    # Ctc and Slu share a head class; only the vocabulary tells which of both a model was trained for.
    if config.task is None and isinstance(task, CtcTask) and any(map(is_intent, task.vocabulary.tokens)):
        task_config = Slu()
        task = build_task(task_config, source=source, model_config=model.config, corpus=corpus)
    # A new head has random weights, and nothing to evaluate.
    if task.new_head and not task.head_class:
        raise ModelError(f"{config.model!r} has no prediction head: {'; '.join(task.notes)}.")
    if task.new_head:
        reason = checkpoint.missing_head or f"{config.model!r} has no head for the task {task_config.kind!r}"
        raise ModelError(f"{reason}: evaluate a fine-tuned model.")
    if config.streaming or config.lookahead is not None:
        _set_streaming(task, model, config, allowed=_lookaheads(source, model))
    for note in task.notes:
        logger.warning("%s", note)
    corpus, notes = filter_corpus(task, corpus, structure)
    # One utterance a batch, so that no score depends on padding.
    batches = held_out_micro_batches(
        corpus, structure, seconds=float("inf"), max_seconds=float("inf"), input_features=input_features, task=task
    )
    can_stream = decoding.can_stream(model)
    default_lookahead = decoding.default_lookahead(model) if can_stream else None
    return EvaluateRecord(
        model=config.model,
        parameters=sum(value.numel() for value in checkpoint.view.encoder.parameters()),
        environment=Environment.current(),
        data=CorpusRecord(
            name=corpus.name,
            utterances=len(batches),
            hours=corpus.seconds / 3600,
            sample_rate=corpus.sample_rate,
        ),
        skipped=tuple(SkippedFile(path=skip.path, reason=skip.reason) for skip in corpus.skipped),
        notes=(*task.notes, *notes),
        streaming=config.streaming if can_stream else None,
        lookahead=default_lookahead if config.lookahead is None else config.lookahead,
        headline=task.primary_metric,
        score_info=dict(task.scores),
        scores=score_task(task, checkpoint.view, batches),
    )


def _set_streaming(task: Task, model: PreTrainedModel, config: EvaluateConfig, *, allowed: Sequence[int]) -> None:
    """Set the decoding of a transducer: chunk by chunk, or with another lookahead than in the config."""
    if not isinstance(task, RnntTask):
        raise ConfigError("streaming, lookahead: expected only with the task 'rnnt'; leave both out.")
    decoding.require_streaming(model)
    if config.lookahead is not None and config.lookahead not in allowed:
        raise ConfigError(
            f"lookahead: got {config.lookahead}, which {config.model!r} was not built for; expected "
            f"{' or '.join(map(str, allowed))}, from its config and from supported_num_lookahead_tokens in its "
            "processor_config.json."
        )
    task.decode = partial(decoding.stream if config.streaming else decoding.greedy, lookahead=config.lookahead)


def _lookaheads(source: str | Path, model: PreTrainedModel) -> tuple[int, ...]:
    """Return the lookaheads in the processor config and in the model config of a streaming model."""
    path = find_file(source, "processor_config.json")
    processor_lookaheads = read_json(path).get("supported_num_lookahead_tokens") if path is not None else None
    config_lookaheads = [decoding.default_lookahead(model)] if decoding.can_stream(model) else []
    return tuple(sorted({*(processor_lookaheads or ()), *config_lookaheads}))
