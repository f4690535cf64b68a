"""From a task's config and a model to the task."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from secateur.architectures.registry import encoder_config
from secateur.data.corpus import Corpus
from secateur.tasks.base import Task
from secateur.tasks.best_rq_task import BestRq, EncoderInfo, build_best_rq
from secateur.tasks.classification import Classification, build_classification
from secateur.tasks.ctc import Ctc, build_ctc
from secateur.tasks.rnnt import Rnnt, build_rnnt
from secateur.tasks.slu import Slu, build_slu

#: Every task that a recipe can name; a new one is a file and a member of this union.
TaskConfig = Ctc | Rnnt | Classification | Slu | BestRq


def build_task(
    config: TaskConfig,
    *,
    source: str | Path,
    model_config: PreTrainedConfig,
    corpus: Corpus,
    encoder_info: EncoderInfo | None = None,
) -> Task:
    """The task of a run. The same inputs give the same vocabulary, in the same order.

    Args:
        config: What is asked for.
        source: Folder or hub id of the model, where its tokenizer is looked for.
        model_config: Of the model. A model with the task's head keeps that head, its tokenizer and its classes; a
            bare encoder gets new ones, from the corpus.
        corpus: The training audio, with what is said in it.
        around: Of the model; wanted by a task that hides something of what it hears.

    Raises:
        ConfigError: A tokenizer cannot be loaded, or does not fit the head that the model has; or the task is not for
            what it hears.
        DataError: The corpus does not tell what the task asks for.
    """
    if isinstance(config, BestRq):
        assert encoder_info is not None
        width = encoder_config(model_config).hidden_size
        return build_best_rq(config, source=source, width=width, corpus=corpus, encoder_info=encoder_info)
    if isinstance(config, Classification):
        return build_classification(config, model_config=model_config, corpus=corpus)
    if isinstance(config, Slu):
        return build_slu(config, source=source, model_config=model_config, corpus=corpus)
    if isinstance(config, Rnnt):
        return build_rnnt(config, source=source, model_config=model_config, corpus=corpus)
    return build_ctc(config, source=source, model_config=model_config, corpus=corpus)
