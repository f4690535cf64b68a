"""The verb ``evaluate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import format_score
from secateur.cli.verb import Recipe, print_record
from secateur.errors import ConfigError

if TYPE_CHECKING:
    from secateur.records.evaluation import EvaluateRecord

SUMMARY = "Score a model with a task head on its task."
RECIPE = Recipe(module="secateur.evaluation.evaluate", config="EvaluateConfig", hidden_fields=("model",))


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder or hub id, dense or cut, with a task head")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    if "model" in fields:
        raise ConfigError(f"--model: the model is given already, {options.model!r}; leave one out.")
    print_record(options, pipeline.evaluate(options.model, fields=fields), print_evaluation)
    return 0


def print_evaluation(record: EvaluateRecord) -> None:
    """Print the size of the data and every score."""
    data = record.data
    print(f"{data.name}: {data.utterances} utterances, {data.hours:.2f} h; {len(record.skipped)} left out")
    for name, value in record.scores.items():
        print(f"{name:16} {format_score(name, value, record.score_info)}")
