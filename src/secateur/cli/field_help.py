"""Help on the fields of a config, and flags of the fields for shell completion."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap

from secateur.cli.config_reader import FieldInfo, read_fields
from secateur.cli.verb import Recipe
from secateur.errors import ConfigError, did_you_mean


def print_fields(verb: str, recipe: Recipe, group: str | None) -> None:
    """Print the fields of a verb's config, with type, default and docstring.

    Args:
        verb: The name of the verb.
        recipe: Its config.
        group: The top-level field whose fields are printed; None prints all, with the first sentence of each docstring.

    Raises:
        ConfigError: The config has no such group.
    """
    fields = _visible_fields(recipe)
    groups = list(dict.fromkeys(info.group for info in fields))
    if group is None:
        print(f"\nFields of the config, each a flag (`secateur {verb} --help GROUP` prints one group in full):")
        simple_fields = [info for info in fields if _is_simple(info, fields)]
        _print_group("general", simple_fields, brief=True)
        for name in groups:
            members = [info for info in fields if info.group == name]
            if len(members) > 1:
                _print_group(name, members, brief=True)
        return
    name = group.removeprefix("--").replace("-", "_")  # "--round-to" -> "round_to"
    # "learn" has the members learn and learn.steps, but no field such as learning_rate.
    members = [info for info in fields if info.path == name or info.path.startswith((f"{name}.", f"{name}["))]
    if not members:
        hint = did_you_mean(name, groups)
        raise ConfigError(
            f"Unknown group {group!r} of `secateur {verb} --help`; allowed are {', '.join(groups)}.{hint}"
        )
    _print_group(name, members, brief=False)


def add_field_arguments(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Declare the fields of a config as flags of a parser, for shell completion."""
    flags: dict[str, FieldInfo] = {}
    for info in _visible_fields(recipe):
        # Fields in a mapping or list, such as gates.KIND.spread, have no single flag to complete.
        if "KIND" not in info.path and "[]" not in info.path:
            flags.setdefault(f"--{info.path}", info)
    for flag, info in flags.items():
        text = _first_sentence(info.doc).replace("%", "%%")  # argparse formats help with %
        parser.add_argument(flag, help=text, choices=info.choices or None)


def _visible_fields(recipe: Recipe) -> list[FieldInfo]:
    return [info for info in read_fields(recipe.module, recipe.config) if info.path not in recipe.hidden_fields]


def _is_simple(info: FieldInfo, fields: list[FieldInfo]) -> bool:
    """Return whether a field is at the top and has no nested fields."""
    return sum(other.group == info.group for other in fields) == 1


def _print_group(name: str, fields: list[FieldInfo], *, brief: bool) -> None:
    print(f"\n{name}:")
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    for info in fields:
        print(f"  --{info.path}  {_describe(info)}")
        doc = _first_sentence(info.doc) if brief else info.doc
        for line in textwrap.wrap(doc, width - 8):  # indented by 8
            print(f"        {line}")


def _describe(info: FieldInfo) -> str:
    """Return the type and default of a field, and the kinds that have the field."""
    default = "required" if info.default is None else f"default {info.default}" if info.default else ""
    kinds = f"of {', '.join(info.kinds)}" if info.kinds else ""
    return "; ".join(part for part in (info.type, default, kinds) if part)


def _first_sentence(text: str) -> str:
    # The periods of "et al." and "Eq." end no sentence.
    return re.split(r"(?<!et al)(?<!Eq)\. (?=[A-Z])", text)[0].rstrip(".")
