"""The fields in the help of a verb are those of its config class, though the classes are read and not imported."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from secateur import config as configs
from secateur.cli.config_reader import FieldInfo, read_fields
from secateur.cli.main import VERBS, find_recipe, main
from secateur.cli.verb import BAD_INPUT

CONFIG_VERBS = [name for name in VERBS if find_recipe(name)]


def read(verb: str) -> list[FieldInfo]:
    recipe = find_recipe(verb)
    assert recipe is not None
    return read_fields(recipe.module, recipe.config)


def config_class(verb: str) -> Any:
    recipe = find_recipe(verb)
    assert recipe is not None
    return getattr(import_module(recipe.module), recipe.config)


def paths_of(kind: Any, path: str) -> Iterator[str]:
    """The dotted names of the fields in a type, from the imported classes."""
    origin = get_origin(kind)
    arguments = get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            if field.name != "kind":
                name = f"{path}.{field.name}".removeprefix(".")
                yield name
                yield from paths_of(hints[field.name], name)
    elif origin is Annotated:
        yield from paths_of(arguments[0], path)
    elif origin in (Union, types.UnionType):
        for member in arguments:
            yield from paths_of(member, path)
    elif origin in (dict, Mapping):
        yield from paths_of(arguments[1], f"{path}.KIND")
    elif origin is tuple:
        yield from paths_of(arguments[0], f"{path}[]")


@pytest.mark.parametrize("verb", CONFIG_VERBS)
def test_help_knows_and_explains_every_field(verb: str) -> None:
    fields = read(verb)
    assert {info.path for info in fields} == set(paths_of(config_class(verb), ""))
    assert [info.path for info in fields if not info.doc] == []


def test_help_tells_the_defaults_that_a_recipe_gets() -> None:
    resolved = yaml.safe_load(configs.dump(config_class("prune")()))
    compared = 0
    for info in read("prune"):
        value: Any = resolved
        for name in info.path.split("."):
            value = value.get(name, ...) if isinstance(value, dict) else ...
        if value is ... or isinstance(value, dict) or info.kinds:
            continue
        assert value == configs.parse_scalar(info.default or ""), info.path
        compared += 1
    assert compared > 60


def test_help_of_one_group_prints_its_docstrings_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--help", "learn"]) == 0
    text = capsys.readouterr().out
    assert "--learn.steps  int" in text
    assert "--learn.freeze.patience  int" in text
    assert "--recover.steps" not in text
    assert main(["prune", "--help"]) == 0
    full = capsys.readouterr().out
    for part in ("usage: secateur prune", "--resume", "--target  ", "--gates.KIND.", "--recover.steps"):
        assert part in full


def test_an_unknown_group_is_told_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--help", "lern"]) == BAD_INPUT
    assert "Unknown group 'lern' of `secateur prune --help`" in (text := capsys.readouterr().err)
    assert text.rstrip().endswith("Did you mean 'learn'?")


def test_completion_offers_verbs_flags_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", "bash"]) == 0
    text = capsys.readouterr().out
    for word in ("doctor", "--against", "--learn.steps", "--data.path"):
        assert word in text
    assert main(["--print-completion", "bsh"]) == BAD_INPUT
    assert "Did you mean 'bash'?" in capsys.readouterr().err
