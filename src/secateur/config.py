"""Loading of YAML recipes into frozen dataclasses, with all mistakes of a recipe in one message.

    base: dphubert          # another recipe: a packaged name, or a path relative to this file
    learn: {steps: 500}     # mappings merge into the base's, anything else replaces it

The dataclasses live beside the code they configure. A choice is a union of dataclasses, each with a field
`kind: Literal["name"]`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from secateur.errors import ConfigError, did_you_mean
from secateur.schema import Mistakes, build

T = TypeVar("T")


def load(
    source: str | Path | Mapping[str, Any],
    cls: type[T],
    overrides: Mapping[str, Any] | None = None,
    *,
    search: Path | None = None,
) -> T:
    """Load a recipe as an instance of a frozen dataclass.

    Args:
        source: YAML file, name of a packaged recipe, or a mapping, whose `base` is relative to the working directory.
        cls: The dataclass.
        overrides: Fields that are laid over the recipe last; a key may be a dotted path, as in `{"learn.steps": 500}`.
        search: Folder of packaged recipes: `{name}.yaml` or `{name}/recipe.yaml`.

    Raises:
        ConfigError: The recipe has mistakes; the message lists all of them.
    """
    if isinstance(source, Mapping):
        name, tree = "The configuration", _merge_base(dict(source), Path.cwd(), search, ())
    else:
        path = _find_recipe(str(source), Path.cwd(), search)
        name, tree = str(source), _read_recipe(path, search, ())
    for key, value in (overrides or {}).items():
        for key_part in reversed(str(key).split(".")):
            value = {key_part: value}
        tree = merge(tree, value)
    return _build(cls, tree, name)


def check(config: T) -> T:
    """Check the types and bounds of a config that was made in Python, and return the checked config.

    Raises:
        ConfigError: The config has mistakes; the message lists all of them.
    """
    return _build(type(config), _to_yaml(config), "The configuration")


def _build(cls: type[T], tree: Any, name: str) -> T:
    try:
        return build(cls, tree)
    except Mistakes as mistakes:
        count = len(mistakes.messages)
        lines = "\n".join(f"  - {message}" for message in mistakes.messages)
        raise ConfigError(f"{name} has {count} mistake{'s' if count > 1 else ''}:\n{lines}") from None


def dump(instance: Any) -> str:
    """Return the YAML of a config with every default, from which `load` makes an equal config."""
    return yaml.safe_dump(_to_yaml(instance), sort_keys=False, allow_unicode=True, default_flow_style=None)


def differences(first_text: str, second_text: str) -> list[str]:
    """Return the dotted names of the fields in which two texts of `dump` differ, in order."""
    try:
        first_fields, second_fields = (_flatten(yaml.safe_load(text), "") for text in (first_text, second_text))
    except yaml.YAMLError:
        return ["everything"]
    if "" in first_fields or "" in second_fields:
        return ["everything"]
    return [
        name
        for name in dict.fromkeys([*first_fields, *second_fields])
        if first_fields.get(name, ...) != second_fields.get(name, ...)
    ]


def _flatten(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    prefix = f"{path}." if path else ""
    return {name: leaf for key, item in value.items() for name, leaf in _flatten(item, f"{prefix}{key}").items()}


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a mapping over a base: nested mappings merge, and a value of another type replaces the value of the base.

    A mapping of another `kind` than the base's replaces the base's, too, since the fields of a kind are its own.
    """
    merged = dict(base)
    for key, value in overlay.items():
        base_value = merged.get(key)
        if isinstance(base_value, Mapping) and isinstance(value, Mapping):
            is_other_kind = "kind" in value and value["kind"] != base_value.get("kind")
            merged[key] = dict(value) if is_other_kind else merge(base_value, value)
        else:
            merged[key] = value
    return merged


def _find_recipe(name: str, folder: Path, search: Path | None) -> Path:
    """Return the recipe file of a path relative to `folder` or of a packaged name."""
    candidates = [folder / name]
    if search is not None:
        candidates += [search / f"{name}.yaml", search / name / "recipe.yaml", search / name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    packaged = sorted(_packaged_names(search)) if search is not None else []
    packaged_text = f" or one of the recipes {', '.join(packaged)}" if packaged else ""
    hint = did_you_mean(name, packaged)
    raise ConfigError(f"{name}: there is no such recipe; allowed is the path of a YAML file{packaged_text}.{hint}")


def _packaged_names(search: Path) -> set[str]:
    """Return the names of all recipes in a folder of packaged recipes."""
    names = {path.relative_to(search).with_suffix("").as_posix() for path in search.rglob("*.yaml")}
    return {name.removesuffix("/recipe") for name in names}


def parse_scalar(text: str) -> Any:
    """Return the value of a field that is given as text, such as by a flag.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    return yaml.load(text, Loader=_RecipeLoader)


def _read_recipe(path: Path, search: Path | None, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Read a recipe file and merge the recipe over the bases; `chain` holds the files that were read before."""
    if path in chain:
        cycle = " -> ".join(link.name for link in (*chain[chain.index(path) :], path))
        raise ConfigError(f"{path.name}: `base` leads in a circle: {cycle}. Remove one of these `base` lines.")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise ConfigError(f"{path}, {position}: not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}.") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got a {type(tree).__name__} at the top, allowed is a mapping (key: value).")
    return _merge_base(tree, path.parent, search, (*chain, path))


def _merge_base(tree: dict[str, Any], folder: Path, search: Path | None, chain: tuple[Path, ...]) -> dict[str, Any]:
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"base: got {base!r}, allowed is the path or the name of one other recipe.")
    return merge(_read_recipe(_find_recipe(base, folder, search), search, chain), tree)


class _RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error and a date stays text.

    No field is a date, while folders are often named by a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        used_keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in used_keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            used_keys.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


_RecipeLoader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))


def _to_yaml(value: Any) -> Any:
    """Return a config value as plain data for YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _to_yaml(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {_to_yaml(key): _to_yaml(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_yaml(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_to_yaml(item) for item in value)
    if isinstance(value, enum.Enum):
        return _to_yaml(value.value)
    return value.as_posix() if isinstance(value, PurePath) else value
