"""The verb ``pretrain``."""

from __future__ import annotations

import argparse
from typing import Any

from secateur.cli.verb import Recipe, add_recipe_flags, print_record

SUMMARY = "Train an encoder from nothing, without labels, by BEST-RQ."
RECIPE = Recipe(module="secateur.pretraining.pretrain", config="PretrainConfig", trains=True)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    parser.set_defaults(recipe="tiny_teacher")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.pretrain(options.recipe, overrides=fields, resume=options.resume)
    print_record(options, record, lambda record: print(f"The encoder lies in {record.folder}/model."))
    return 0
