"""Validation of plain data against dataclasses by pydantic, with a plain sentence for each mistake.

pydantic walks the data, checks types and bounds, and builds the dataclasses. Before that, its schema is changed in two
ways: a union is decided by the shape of the value and by its `kind` instead of by trial, so that a mistake has one
path, and ``true`` is no number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

from secateur.errors import did_you_mean

T = TypeVar("T")

_BOUND_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_TYPE_NAMES = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false"}
_LISTS = ("tuple", "list", "set", "frozenset")
_MAPPINGS = ("dict", "dataclass")

#: The branches of a union, beside one for each kind of config: they are part of pydantic's path of a mistake.
_LEAF, _LIST, _MAPPING = "\0leaf", "\0list", "\0mapping"


class Mistakes(ValueError):
    """Error for data that does not fit a type.

    Attributes:
        messages: One sentence for each mistake, which begins with the dotted path.
    """

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


@dataclass(frozen=True)
class DefaultKind:
    """Metadata of an `Annotated` union: the kind of a mapping that names no kind."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "metadata": {**schema.get("metadata", {}), "default_kind": self.kind}}


def build(kind: type[T], value: object) -> T:
    """Return a value as an instance of a type.

    Args:
        kind: A dataclass, or any other type that pydantic knows.
        value: Plain data; instances of dataclasses in it stay as they are.

    Raises:
        Mistakes: The value does not fit the type.
    """
    hashable_kind: Any = kind
    checker = _checker(hashable_kind)
    try:
        result: T = checker.validator.validate_python(value)
    except pydantic.ValidationError as error:
        messages = [checker.describe_error(details) for details in error.errors(include_url=False)]
        raise Mistakes(list(dict.fromkeys(messages))) from None
    return result


@functools.cache
def _checker(kind: Any) -> _Checker:
    config = pydantic.ConfigDict(extra="forbid")
    optional: Any = kind | None  # a config for all dataclasses inside can be given with a type that is none itself
    schema: Any = pydantic.TypeAdapter(optional, config=config).core_schema
    return _Checker(schema)


class _Checker:
    """Validator of a type, with sentences for the errors of pydantic."""

    def __init__(self, schema: dict[str, Any]) -> None:
        definitions = schema.get("definitions", ()) if schema["type"] == "definitions" else ()
        self.definitions = {definition["ref"]: definition for definition in definitions}
        self.schema = self._adapt(schema)
        self.definitions = {definition["ref"]: definition for definition in self.schema.get("definitions", ())}
        adapted: Any = self.schema
        self.validator = SchemaValidator(adapted)

    def _adapt(self, schema: dict[str, Any], default_kind: str | None = None) -> dict[str, Any]:
        """Return the schema with numbers that refuse booleans, and with unions that are decided by shape and kind."""
        if schema["type"] == "default" and "default_factory" in schema:
            default_kind = getattr(schema["default_factory"](), "kind", default_kind)
        if schema["type"] in ("int", "float"):
            guarded: Any = schema
            return dict(core_schema.no_info_before_validator_function(_refuse_bool, guarded))
        adapted: dict[str, Any] = {}
        for name, part in schema.items():
            if isinstance(part, dict) and "type" in part:
                adapted[name] = self._adapt(part, default_kind)
            elif isinstance(part, list):
                adapted[name] = [self._adapt(item) if isinstance(item, dict) else item for item in part]
            else:
                adapted[name] = part
        return self._decide(adapted, default_kind) if schema["type"] == "union" else adapted

    def _decide(self, union: dict[str, Any], default_kind: str | None) -> dict[str, Any]:
        """Return a union with containers as a union that is decided by the shape and the kind of a value."""
        # `SyntheticData | FolderData` gives the branches {"synthetic": …, "folder": …}, and `Literal["auto"] | dict`
        # gives {_LEAF: …, _MAPPING: …}.
        branches: dict[str, Any] = {}
        leaves = []
        members = union["choices"]
        for member in members:
            resolved = self._resolve(member)
            if resolved["type"] == "dataclass" and sum(self._tag(other) is not None for other in members) > 1:
                branches[str(self._tag(member))] = member
            elif resolved["type"] in (*_MAPPINGS, *_LISTS):
                branches[_MAPPING if resolved["type"] in _MAPPINGS else _LIST] = member
            else:
                leaves.append(member)
        if not branches:
            return union
        if leaves:
            leaf = leaves[0] if len(leaves) == 1 else {"type": "union", "choices": leaves}
            branches = {_LEAF: leaf, **branches}
        declared_kind = union.get("metadata", {}).get("default_kind")
        fields = self._resolve(branches[default_kind])["fields"] if default_kind in branches else ()

        def choose(value: Any) -> Any:
            if isinstance(value, Mapping) and "kind" not in value:
                # the kind of the default, where that has all the keys
                return declared_kind or (default_kind if fields and value.keys() <= set(fields) else _MAPPING)
            return _branch_of(value)

        return dict(core_schema.tagged_union_schema(branches, discriminator=choose))

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema behind a reference, a default, a guard or null."""
        while True:
            if schema["type"] == "definition-ref":
                schema = self.definitions[schema["schema_ref"]]
            elif schema["type"] in ("definitions", "default", "nullable", "function-before", "dataclass-field"):
                schema = schema["schema"]
            else:
                return schema

    def _tag(self, schema: dict[str, Any]) -> str | None:
        """Return the text in ``kind: Literal["text"]`` of a dataclass."""
        schema = self._resolve(schema)
        if schema["type"] != "dataclass" or "kind" not in schema["fields"]:
            return None
        kind = self._resolve(self._field(schema, "kind"))
        return str(kind["expected"][0]) if kind["type"] == "literal" else None

    def _field(self, schema: dict[str, Any], name: str) -> dict[str, Any]:
        fields: list[dict[str, Any]] = schema["schema"]["fields"]
        return next(field for field in fields if field["name"] == name)

    def describe_error(self, error: Any) -> str:
        """Return a sentence for an error of pydantic."""
        location = error["loc"]
        if error["type"] == "missing" and not isinstance(error["input"], Mapping):
            location = location[:-1]  # a list that is too short
        path, schema = self._locate(location)
        resolved = self._resolve(schema)
        value = error["input"]
        if error["type"] in ("value_error", "assertion_error"):
            text = str(error["ctx"]["error"])
        elif error["type"] == "unexpected_keyword_argument":
            name = str(location[-1])
            fields = resolved["fields"]
            allowed = f"Allowed here: {', '.join(fields)}." if fields else "Nothing is allowed here."
            path = _join(path, name)
            text = f"unknown key.{did_you_mean(name, fields)} {allowed}"
        elif error["type"] == "missing" and isinstance(value, Mapping):
            text = f"missing, expected {self.describe(schema)}."
        elif resolved["type"] == "tagged-union" and isinstance(value, Mapping):
            kinds = [kind for kind in resolved["choices"] if not kind.startswith("\0")]
            expected = _join_words([repr(kind) for kind in kinds])
            path = _join(path, "kind")
            text = f"missing, expected {expected}."
            if "kind" in value:
                text = _mismatch(expected, value["kind"], kinds)
        else:
            quotes = " Put it in quotes." if resolved["type"] == "str" and _is_number(value) else ""
            text = _mismatch(self.describe(schema), value, self._words(schema)) + quotes
        return f"{path}: {text}" if path else text

    def _locate(self, location: Sequence[Any]) -> tuple[str, dict[str, Any]]:
        """Return the dotted path of an error, and the schema at that path."""
        # Example: pydantic's location ("data", "folder", "path") has a branch of a union, and the path is "data.path".
        path, schema = "", self.schema
        for step in location:
            container = self._resolve(schema)
            if container["type"] == "tagged-union" and step != _LEAF:
                schema = container["choices"][step]
            elif container["type"] == "dataclass":
                if step not in container["fields"]:  # an unknown key
                    return path, container
                path, schema = _join(path, step), self._field(container, step)
            elif container["type"] == "dict":
                if step != "[key]":
                    path = _join(path, step)
                schema = container["keys_schema" if step == "[key]" else "values_schema"]
            elif container["type"] in _LISTS:
                items = container["items_schema"]
                if isinstance(items, list):
                    is_variadic = container.get("variadic_item_index") is not None
                    if not is_variadic and step >= len(items):  # too many items
                        return path, schema
                    items = items[0] if is_variadic else items[step]
                path, schema = f"{path}[{step}]", items
            else:  # the leaves of a union
                return path, schema
        return path, schema

    def describe(self, schema: dict[str, Any]) -> str:
        """Return the values that a schema allows, in words."""
        return _join_words(list(dict.fromkeys(self._alternatives(schema))))

    def _alternatives(self, schema: dict[str, Any]) -> list[str]:
        kind = schema["type"]
        if kind == "nullable":
            texts = self._alternatives(schema["schema"])
            return ["null", *texts] if "," in texts[-1] else [*texts, "null"]
        inner = schema if kind in ("union", "tagged-union") else self._resolve(schema)
        if inner is not schema:
            wrapped = schema.get("schema", inner)
            return self._alternatives(wrapped if kind != "definition-ref" else inner)
        if kind == "union":
            return [text for member in schema["choices"] for text in self._alternatives(member)]
        if kind == "tagged-union":
            return [text for member in schema["choices"].values() for text in self._alternatives(member)]
        if kind == "literal":
            return [repr(choice) for choice in schema["expected"]]
        return [self._describe_one(schema)]

    def _describe_one(self, schema: dict[str, Any]) -> str:
        kind = schema["type"]
        if kind in _TYPE_NAMES:
            bounds = [f"{sign} {schema[name]:g}" for name, sign in _BOUND_SIGNS.items() if name in schema]
            bounds = [bound for bound in bounds if not bound.endswith("inf")]
            return " ".join([_TYPE_NAMES[kind], *([" and ".join(bounds)] if bounds else [])])
        if kind == "dataclass":
            tag = self._tag(schema)
            return f"a mapping of kind {tag!r}" if tag else f"a mapping with {_join_words(schema['fields'], 'and')}"
        if kind == "dict":
            key, item = self.describe(schema["keys_schema"]), self.describe(schema["values_schema"])
            return f"a mapping of {key} to {item}"
        if kind in _LISTS:
            items = schema["items_schema"]
            if isinstance(items, list) and schema.get("variadic_item_index") is None:
                return f"a list of {len(items)} items: {', '.join(map(self.describe, items))}"
            return f"a list, each item {self.describe(items[0] if isinstance(items, list) else items)}"
        return "a path" if kind == "lax-or-strict" else f"a valid {kind}"

    def _words(self, schema: dict[str, Any]) -> list[str]:
        """Return the texts that a schema allows by name."""
        schema = self._resolve(schema)
        if schema["type"] == "literal":
            return [word for word in schema["expected"] if isinstance(word, str)]
        members = schema.get("choices", ())
        members = members.values() if isinstance(members, dict) else members
        return [word for member in members for word in self._words(member)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse_bool(value: Any) -> Any:
    """Raise an error for a boolean, which pydantic would take for the number 0 or 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")
    return value


def _branch_of(value: Any) -> Any:
    """Return the branch of a union for a value, by kind or by shape."""
    if dataclasses.is_dataclass(value):
        return getattr(value, "kind", _MAPPING)
    if isinstance(value, Mapping):
        kind = value.get("kind")
        return kind if isinstance(kind, str) else _MAPPING
    return _LIST if isinstance(value, (list, tuple, set, frozenset)) else _LEAF


def _mismatch(expected: str, value: Any, words: Sequence[str]) -> str:
    return f"expected {expected}, got {_quote(value)}.{did_you_mean(str(value), words)}"


def _join_words(words: Sequence[str], conjunction: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def _quote(value: Any) -> str:
    """Return a value as quoted in a message."""
    if isinstance(value, Mapping):
        return f"a mapping with {_join_words([repr(key) for key in value], 'and')}" if value else "an empty mapping"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
