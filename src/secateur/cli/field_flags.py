"""Fields of a config given as flags: ``--learn.steps 100``, ``--target=0.25``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.errors import ConfigError

_BOOLEAN_FLAGS = ("resume", "json", "verbose", "help", "default-settings")  # flags without a value


def split_fields(words: Sequence[str], value_flags: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split the words of a command into words for argparse and fields of the config by dotted name.

    Args:
        words: The words, the verb first.
        value_flags: Flags with a value that are no fields.

    Raises:
        ConfigError: A flag lacks its value, or the value is not YAML.
    """
    cli_words: list[str] = []
    fields: dict[str, Any] = {}
    pending = list(words)
    while pending:
        word = pending.pop(0)
        # "--target=0.25" -> "target", "=", "0.25"; "--target" -> "target", "", "" with the value in the next word
        name, equals, text = word[2:].partition("=")
        if not word.startswith("--") or name in _BOOLEAN_FLAGS:
            cli_words.append(word)
            continue
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value.")
            text = pending.pop(0)
        if not text.strip():  # a shell variable that is not set; YAML would read it as null
            raise ConfigError(f"--{name} needs a value, got nothing; write null where nothing is meant.")
        if name in value_flags:
            cli_words += [f"--{name}", text]
        else:
            # "--learn.steps 100" -> {"learn.steps": 100}
            fields[name.replace("-", "_")] = parse_value(name, text)
    return cli_words, fields


def parse_value(name: str, text: str) -> Any:
    """Return the value of a flag that stands for a field of a config."""
    import yaml

    from secateur import config

    try:
        return config.parse_scalar(text)
    except yaml.YAMLError:
        raise ConfigError(f"--{name}: {text!r} is not a YAML value.") from None


def parse_grid(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each field that ``--sweep NAME=A,B,…`` names."""
    grid: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--sweep: got {text!r}, allowed is a field and its values, such as target=0.9,0.7,0.5.")
        if name in grid:
            raise ConfigError(f"--sweep {name}: given twice; list all its values in one.")
        # "target=0.9,0.5" -> {"target": [0.9, 0.5]}, by way of the YAML list "[0.9,0.5]"
        grid[name.replace("-", "_")] = parse_value("sweep", f"[{values}]")
    return grid
