"""Values checked against types: plain data in, nested dataclasses out, with a sentence for each mistake.

The walk over dataclasses, unions and containers is ours, so that one path names each mistake and a union is
chosen by its `kind`; what lies at the leaves is pydantic's.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from secateur.errors import did_you_mean

_TYPE_DESCRIPTIONS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_SEQUENCES = (tuple, list, set, frozenset, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


@dataclass
class Problems:
    """The mistakes found so far, each one sentence that begins with its dotted path."""

    messages: list[str] = field(default_factory=list)

    def add(self, path: str, text: str) -> None:
        """Note a mistake at a dotted path."""
        self.messages.append(f"{path}: {text}" if path else text)


@dataclass(frozen=True)
class DefaultKind:
    """The member of an `Annotated` union of dataclasses that a mapping without a `kind` is read as."""

    kind: str


def build(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    """`value` as an instance of the type `kind`; on a mistake, notes it and returns anything."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(kind, value, path, problems)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, path, problems)
    if origin in (Union, types.UnionType):
        return _union(kind, value, path, problems)
    if origin in _SEQUENCES and arguments:
        return _sequence(kind, value, path, problems)
    if origin in _MAPPINGS and arguments:
        return _mapping(kind, value, path, problems)
    return _leaf(kind, value, path, problems)


def describe(kind: Any) -> str:
    """What a type allows, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _TYPE_DESCRIPTIONS:
        return _TYPE_DESCRIPTIONS[kind]
    if origin is Annotated:
        bounds = [text for metadata in kind.__metadata__ for text in _describe_bounds(metadata)]
        return " ".join([describe(arguments[0]), *([" and ".join(bounds)] if bounds else [])])
    if origin is Literal:
        return _join_words([repr(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        tags = [tag for member in arguments if (tag := _tag(member))]
        if len(tags) < 2:
            return _join_words([describe(member) for member in arguments])
        untagged = [describe(member) for member in arguments if not _tag(member)]
        return _join_words([f"a mapping of kind {_join_words([repr(tag) for tag in tags])}", *untagged])
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        tag = _tag(kind)
        return f"a mapping of kind {tag!r}" if tag else f"a mapping with {_join_words(list(_fields(kind)), 'and')}"
    if origin in _SEQUENCES and arguments:
        item_types = [argument for argument in arguments if argument is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments:
            return f"a list of {len(item_types)} items: {', '.join(map(describe, item_types))}"
        return f"a list, each item {describe(item_types[0])}"
    if origin in _MAPPINGS and arguments:
        return f"a mapping of {describe(arguments[0])} to {describe(arguments[1])}"
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return "a path"
    return getattr(kind, "__name__", str(kind))


def _describe_bounds(metadata: Any) -> list[str]:
    """The bounds in one piece of `Annotated` metadata, in words."""
    if isinstance(metadata, pydantic.fields.FieldInfo):
        return [text for nested_metadata in metadata.metadata for text in _describe_bounds(nested_metadata)]
    bound_phrases = {
        "gt": "above",
        "ge": "not below",
        "lt": "below",
        "le": "not above",
        "multiple_of": "a multiple of",
    }
    return [f"{phrase} {getattr(metadata, name)}" for name, phrase in bound_phrases.items() if hasattr(metadata, name)]


def _join_words(words: list[str], conjunction: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def _quote_value(value: Any) -> str:
    """A value as it is quoted in a message."""
    if isinstance(value, Mapping):
        return f"a mapping with {_join_words([repr(key) for key in value], 'and')}" if value else "an empty mapping"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _add_mismatch(kind: Any, value: Any, path: str, problems: Problems, hint: str = "") -> None:
    problems.add(path, f"got {_quote_value(value)}, allowed is {describe(kind)}.{hint}")


def _join_path(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _fields(kind: Any) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(kind) if f.init}


def _tag(kind: Any) -> str | None:
    """The word in a dataclass's `kind: Literal["word"]`."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)) or "kind" not in _fields(kind):
        return None
    words = get_args(_hints(kind)["kind"])
    return words[0] if len(words) == 1 and isinstance(words[0], str) else None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _dataclass(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        return _add_mismatch(kind, value, path, problems)
    problem_count, fields, hints, field_values = len(problems.messages), _fields(kind), _hints(kind), {}
    for key, item in value.items():
        if key in fields:
            field_values[key] = build(
                hints[key], _with_default_kind(fields[key], item), _join_path(path, key), problems
            )
        else:
            allowed_hint = f" Allowed here: {', '.join(fields)}." if fields else " Nothing is allowed here."
            problems.add(_join_path(path, key), f"unknown key.{did_you_mean(str(key), fields)}{allowed_hint}")
    for name, field_spec in fields.items():
        required = field_spec.default is dataclasses.MISSING and field_spec.default_factory is dataclasses.MISSING
        if required and name not in value:
            problems.add(_join_path(path, name), f"missing; give {describe(hints[name])}.")
    if len(problems.messages) == problem_count:
        return _construct(lambda: kind(**field_values), path, problems)
    return None


def _with_default_kind(field_spec: dataclasses.Field[Any], value: Any) -> Any:
    """A mapping that names no `kind` as one of the default's, where that has all its keys."""
    if not isinstance(value, Mapping) or "kind" in value or field_spec.default_factory is dataclasses.MISSING:
        return value
    default_type = type(field_spec.default_factory())
    tag = _tag(default_type)
    return value if tag is None or not value.keys() <= _fields(default_type).keys() else {"kind": tag, **value}


def _construct(factory: Callable[[], Any], path: str, problems: Problems) -> Any:
    """What `make` returns; an error of a dataclass's own checks becomes a mistake at its path."""
    try:
        return factory()
    except ValueError as error:
        problems.add(path, str(error))
        return None


def _union(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    members = get_args(kind)
    unannotated = {member: get_args(member)[0] if get_origin(member) is Annotated else member for member in members}
    if value is None and type(None) in members:
        return None
    for member in members:
        if (
            dataclasses.is_dataclass(value)
            and isinstance(unannotated[member], type)
            and type(value) is unannotated[member]
        ):
            return value
    tagged = {tag: member for member in members if (tag := _tag(unannotated[member])) is not None}
    if len(tagged) > 1 and isinstance(value, Mapping):
        return _tagged_union(tagged, value, path, problems)
    mappings = [
        m for m in members if dataclasses.is_dataclass(unannotated[m]) or get_origin(unannotated[m]) in _MAPPINGS
    ]
    if len(mappings) == 1 and isinstance(value, Mapping):
        return build(mappings[0], value, path, problems)
    non_null_members = [member for member in members if member is not type(None)]
    if len(non_null_members) == 1:
        return build(non_null_members[0], value, path, problems)
    for is_exact in (True, False):  # 3 is the whole number of `int | float`, and not its number or text
        for member in non_null_members:
            trial_problems = Problems()
            result = build(member, value, path, trial_problems)
            if not trial_problems.messages and (not is_exact or (type(result) is type(value) and result == value)):
                return result
    _add_mismatch(
        kind,
        value,
        path,
        problems,
        did_you_mean(str(value), [word for member in non_null_members for word in _literal_choices(member)]),
    )
    return None


def _tagged_union(tagged: Mapping[str, Any], value: Mapping[Any, Any], path: str, problems: Problems) -> Any:
    """The member of a union that the value's `kind` names."""
    choices = _join_words([repr(tag) for tag in tagged])
    if "kind" not in value:
        problems.add(_join_path(path, "kind"), f"missing; give {choices}.")
    elif not isinstance(value["kind"], str) or value["kind"] not in tagged:
        kind_name = value["kind"]
        problems.add(
            _join_path(path, "kind"),
            f"got {_quote_value(kind_name)}, allowed is {choices}.{did_you_mean(str(kind_name), tagged)}",
        )
    else:
        return build(tagged[value["kind"]], value, path, problems)
    return None


def _sequence(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    is_fixed_length = origin is tuple and Ellipsis not in arguments
    if not isinstance(value, (list, tuple, set, frozenset)) or (is_fixed_length and len(value) != len(arguments)):
        return _add_mismatch(kind, value, path, problems)
    kinds = arguments if is_fixed_length else (arguments[0],) * len(value)
    items = [
        build(member, item, f"{path}[{i}]", problems) for i, (member, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(items) if origin is collections.abc.Sequence else origin(items)


def _mapping(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        return _add_mismatch(kind, value, path, problems)
    key_kind, item_kind = get_args(kind)
    return {
        build(key_kind, key, _join_path(path, key), problems): build(item_kind, item, _join_path(path, key), problems)
        for key, item in value.items()
    }


def _annotated(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    """A type with bounds: its inside by the walk, the bounds by pydantic."""
    inner_type, problem_count = get_args(kind)[0], len(problems.messages)
    for metadata in kind.__metadata__:
        if isinstance(metadata, DefaultKind) and isinstance(value, Mapping):
            value = {"kind": metadata.kind, **value}
    if get_origin(inner_type) is None and not dataclasses.is_dataclass(inner_type):
        return _leaf(kind, value, path, problems)
    result = build(inner_type, value, path, problems)
    if len(problems.messages) > problem_count or result is None or dataclasses.is_dataclass(result):
        return result
    return _leaf(kind, result, path, problems)


def _leaf(kind: Any, value: Any, path: str, problems: Problems) -> Any:
    unannotated = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if unannotated in (int, float) and isinstance(value, bool):
        return _add_mismatch(kind, value, path, problems)  # pydantic would take true for 1
    try:
        return _adapter(kind).validate_python(value)
    except pydantic.ValidationError:
        hint = (
            " Put it in quotes."
            if _needs_quotes(unannotated, value)
            else did_you_mean(str(value), _literal_choices(kind))
        )
        return _add_mismatch(kind, value, path, problems, hint)


def _literal_choices(kind: Any) -> list[str]:
    """The texts that a `Literal` allows."""
    return [word for word in get_args(kind) if isinstance(word, str)] if get_origin(kind) is Literal else []


def _needs_quotes(kind: Any, value: Any) -> bool:
    return kind is str and isinstance(value, (int, float)) and not isinstance(value, bool)
