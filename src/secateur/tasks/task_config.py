"""Union of all task configs, and the construction of a task from a config."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus
from secateur.tasks.best_rq_task import BestRq
from secateur.tasks.classification import Classification
from secateur.tasks.ctc import Ctc
from secateur.tasks.rnnt import Rnnt
from secateur.tasks.slu import Slu
from secateur.tasks.task import BuildInputs, EncoderInfo, Task

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
    """Return the task of a run. The same inputs give the same vocabulary, in the same order.

    Args:
        config: Config of the task.
        source: Folder or hub id of the model, where its tokenizer is looked for.
        model_config: Config of the model. A model with the task's head keeps the head, its tokenizer and its classes; a
            bare encoder gets new ones, from the corpus.
        corpus: Training audio with its labels.
        encoder_info: Further facts about the encoder, required by a task that masks its inputs.

    Raises:
        ConfigError: A tokenizer cannot be loaded, or does not fit the head of the model; or the task does not support
            the inputs of the encoder.
        DataError: The corpus lacks the labels of the task.
    """
    return config.build(BuildInputs(source=source, model_config=model_config, corpus=corpus, encoder_info=encoder_info))


def task_for_head(class_name: str) -> TaskConfig | None:
    """Return the default config of the first task with the head of a model class, if any.

    Of two tasks with the same head, such as `Ctc` and `Slu`, the first in `TaskConfig` counts.
    """
    for config_class in get_args(TaskConfig):
        if config_class.head_class and class_name.endswith(config_class.head_class):
            config: TaskConfig = config_class()
            return config
    return None


def supported_heads() -> tuple[str, ...]:
    """Return the endings of the model classes that a task has a head in, such as ``ForCTC``."""
    heads = (config_class.head_class for config_class in get_args(TaskConfig))
    return tuple(dict.fromkeys(filter(None, heads)))
