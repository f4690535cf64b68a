"""Interface of a verb to the parser, and printing of records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

BAD_INPUT = 2  # as argparse exits after wrong usage
BROKEN_CONTRACT = 1  # a promise of the package does not hold, such as a line of the drop-in contract


class Verb(Protocol):
    """Interface of a module that implements a verb."""

    SUMMARY: str

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Declare the flags of the verb."""

    def run(self, options: argparse.Namespace, fields: dict[str, Any]) -> int:
        """Run the verb, print the record and return the exit code.

        Args:
            options: The values of the flags.
            fields: The fields of the config by dotted name, of a verb with a `RECIPE`.
        """


class Recipe(NamedTuple):
    """Config of a verb with all fields as flags (``--learn.steps 100``)."""

    module: str
    """the module of the config class, which is not imported for the help"""
    config: str
    """the name of the config class"""
    value_flags: tuple[str, ...] = ()
    """flags with a value that are no fields"""
    hidden_fields: tuple[str, ...] = ()
    """fields that are given in another way than by a flag"""
    trains: bool = False
    """whether the verb trains in this process, for long"""


def print_record(options: argparse.Namespace, record: T, show: Callable[[T], object]) -> None:
    """Print a record as JSON with ``--json``, else by `show`."""
    from secateur.records.files import plain

    if options.json:
        print(json.dumps(plain(record), indent=2, ensure_ascii=False))
    else:
        show(record)


def add_settings_flag(parser: argparse.ArgumentParser) -> None:
    """Declare the flag that leaves the settings of the process alone."""
    parser.add_argument("--default-settings", action="store_true", help="leave malloc and float32 products as they are")


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a verb that trains by a recipe."""
    parser.add_argument("recipe", nargs="?", default="quickstart", help="a YAML file or the name of a packaged recipe")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    add_settings_flag(parser)
