"""Reader of config classes from source code, without an import.

`--help` and shell completion need the name, type, default and docstring of every field. Importing the classes takes
seconds, since their modules import torch and transformers; parsing their modules takes some tens of milliseconds, and
attribute docstrings exist in the source alone.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_SOURCE_FOLDER = Path(__file__).parents[2]
# Names of bounds in annotated_types.
_BOUND_SIGNS = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}


@dataclass(frozen=True, kw_only=True)
class FieldInfo:
    """A field of a config.

    Attributes:
        path: Its dotted name, as it is given as a flag; ``gates.KIND.spread`` for the values of a mapping.
        type: Its type in words.
        default: Its default in YAML; None where it is required.
        doc: Its docstring, in one line.
        kinds: The kinds of the config that have the field, where its config is a choice.
        choices: The texts that are allowed, where only some are.
    """

    path: str
    type: str
    default: str | None
    doc: str
    kinds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The first part of the path: the top-level field of the config."""
        # "learn.steps" -> "learn", "constraints[].target" -> "constraints"
        return self.path.partition(".")[0].partition("[")[0]


@dataclass(frozen=True)
class _Definition:
    """Syntax node that defines a name, and the module of the node."""

    module: str
    node: ast.AST


def read_fields(module: str, class_name: str) -> list[FieldInfo]:
    """Return all fields of a config class and of nested configs, in the order of the source."""
    definition = _resolve(module, class_name)
    assert definition is not None, f"{module} does not define {class_name}"
    return list(_walk_class(definition, prefix=""))


def _walk_class(definition: _Definition, *, prefix: str) -> Iterator[FieldInfo]:
    """Yield the fields of a class, each nested config behind the field of the config."""
    for name, (module, statement, doc) in _class_fields(definition).items():
        annotation = statement.annotation
        path = f"{prefix}{name}"
        yield FieldInfo(
            path=path,
            type=describe_type(module, annotation),
            default=_default_words(module, statement.value),
            doc=doc or _class_summary(module, annotation),
            choices=tuple(_literal_words(module, annotation)),
        )
        yield from _walk_type(module, annotation, path=path)


def _walk_type(module: str, annotation: ast.expr, *, path: str) -> Iterator[FieldInfo]:
    """Yield the fields of the config classes that a type consists of."""
    tagged: list[tuple[_Definition, str]] = []
    for member_module, member in _union_members(module, annotation):
        definition = _class_of(member_module, member)
        tag = None if definition is None else _tag(definition)
        if definition is not None and tag is not None:
            # Kinds of a choice are collected first, since a field of several kinds is printed once.
            tagged.append((definition, tag))
        elif definition is not None:
            yield from _walk_class(definition, prefix=f"{path}.")
        elif isinstance(member, ast.Subscript):
            yield from _walk_container(member_module, member, path=path)
    yield from _walk_kinds(tagged, path=path)


def _walk_kinds(tagged: list[tuple[_Definition, str]], *, path: str) -> Iterator[FieldInfo]:
    """Yield the fields of a choice of configs, a field of several kinds once."""
    fields: dict[FieldInfo, list[str]] = {}  # the kinds that have each field
    for definition, tag in tagged:
        for info in _walk_class(definition, prefix=f"{path}."):
            if info.path != f"{path}.kind":
                fields.setdefault(info, []).append(tag)
    for info, tags in fields.items():
        yield info if len(tags) == len(tagged) else replace(info, kinds=tuple(tags))


def _walk_container(module: str, annotation: ast.Subscript, *, path: str) -> Iterator[FieldInfo]:
    """Yield the fields of the configs in a tuple or in the values of a mapping."""
    name = ast.unparse(annotation.value)
    arguments = _arguments(annotation)
    if name in ("dict", "Mapping"):
        yield from _walk_type(module, arguments[1], path=f"{path}.KIND")  # gates -> gates.KIND.spread
    elif name in ("tuple", "list", "Sequence"):
        yield from _walk_type(module, arguments[0], path=f"{path}[]")


def _class_fields(definition: _Definition) -> dict[str, tuple[str, ast.AnnAssign, str]]:
    """Return module, statement and docstring of the fields of a dataclass, fields of base classes first."""
    node = definition.node
    assert isinstance(node, ast.ClassDef)
    fields: dict[str, tuple[str, ast.AnnAssign, str]] = {}
    for base in node.bases:
        base_definition = _class_of(definition.module, base)
        if base_definition is not None:
            fields |= _class_fields(base_definition)
    # The docstring of an attribute is the string statement behind it.
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        # A ClassVar is no field of a dataclass.
        if not ast.unparse(statement.annotation).startswith("ClassVar"):
            fields[statement.target.id] = (definition.module, statement, _docstring(following))
    return fields


def _class_summary(module: str, annotation: ast.expr) -> str:
    """Return the first line of the docstring of the only config class in a type."""
    classes = [definition for member in _union_members(module, annotation) if (definition := _class_of(*member))]
    if len(classes) != 1 or not isinstance(classes[0].node, ast.ClassDef):
        return ""
    return (ast.get_docstring(classes[0].node) or "").partition("\n")[0]


def _docstring(statement: ast.stmt | None) -> str:
    """Return the text of a string statement on a single line."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def describe_type(module: str, annotation: ast.expr) -> str:
    """Return a type in words: ``int >= 1 | null``, ``[float, …]``, ``fp32 | bf16``."""
    texts = [_describe_member(module, member) for module, member in _union_members(module, annotation)]
    return " | ".join(dict.fromkeys(texts))


def _describe_member(module: str, annotation: ast.expr) -> str:
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return "null"
    definition = _class_of(module, annotation)
    if definition is not None:
        return _tag(definition) or "mapping"
    if isinstance(annotation, ast.Subscript):
        return _describe_subscript(module, annotation)
    return {"str": "text", "bool": "true | false", "Path": "path"}.get(ast.unparse(annotation), ast.unparse(annotation))


def _describe_subscript(module: str, annotation: ast.Subscript) -> str:
    name = ast.unparse(annotation.value)
    arguments = _arguments(annotation)
    if name == "Literal":
        # Literal["fp32", "bf16"] -> fp32 | bf16
        return " | ".join(str(ast.literal_eval(argument)) for argument in arguments)
    if name == "Annotated":
        # Annotated[int, Ge(1)] -> int >= 1
        bounds = [bound for argument in arguments[1:] if (bound := _describe_bound(argument))]
        return " ".join([describe_type(module, arguments[0]), " and ".join(bounds)]).strip()
    if name in ("dict", "Mapping"):
        # Mapping[str, float] -> {text: float}
        return f"{{{describe_type(module, arguments[0])}: {describe_type(module, arguments[1])}}}"
    # tuple[float, ...] and list[float] -> [float, …]; tuple[int, int] -> [int, int]
    items = [describe_type(module, item) for item in arguments if ast.unparse(item) != "..."]
    ellipsis = ", …" if len(items) < len(arguments) or name != "tuple" else ""
    return f"[{', '.join(items)}{ellipsis}]"


def _arguments(annotation: ast.Subscript) -> list[ast.expr]:
    """Return the expressions between the brackets of a type."""
    return annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]


def _describe_bound(annotation: ast.expr) -> str:
    """Return a bound such as ``Ge(1)`` as ``>= 1``, and an empty text for metadata of another kind."""
    if not isinstance(annotation, ast.Call) or ast.unparse(annotation.func) not in _BOUND_SIGNS:
        return ""
    bound = ast.unparse(annotation.args[0])
    # Lt(math.inf) excludes only infinity.
    return "" if "inf" in bound else f"{_BOUND_SIGNS[ast.unparse(annotation.func)]} {bound}"


def _default_words(module: str, value: ast.expr | None) -> str | None:
    """Return a default in YAML, or `None` for a required field."""
    if value is None:
        return None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        factory = next(keyword.value for keyword in value.keywords if keyword.arg == "default_factory")
        if ast.unparse(factory) == "dict":
            return "{}"
        definition = _class_of(module, factory)
        if definition is not None:
            return _tag(definition) or ""
        # field(default_factory=lambda: X) -> X
        return ast.unparse(factory).removeprefix("lambda: ")
    try:
        return _yaml_words(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def _yaml_words(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml_words, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    # Texts that would be invisible are quoted.
    return repr(value) if value in ("", "\t") else str(value)


def _literal_words(module: str, annotation: ast.expr) -> Iterator[str]:
    """Yield the texts that a type allows by name."""
    for member_module, member in _union_members(module, annotation):
        if isinstance(member, ast.Subscript) and ast.unparse(member.value) == "Literal":
            # Between the brackets is a tuple for Literal["a", "b"], and a single text for Literal["a"].
            yield from map(str, ast.literal_eval(f"[{ast.unparse(member.slice).strip('()')}]"))
        else:
            definition = _class_of(member_module, member)
            if definition is not None and (tag := _tag(definition)):
                yield tag


def _union_members(module: str, annotation: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Yield the members of a union, through aliases, with the module of the names in a member."""
    # `DataConfig | None`, where `DataConfig = SyntheticData | FolderData` in another module, has the members
    # SyntheticData and FolderData of that module, and None of this module.
    if isinstance(annotation, ast.BinOp):
        yield from _union_members(module, annotation.left)
        yield from _union_members(module, annotation.right)
        return
    definition = _resolve(module, annotation.id) if isinstance(annotation, ast.Name) else None
    if definition is not None and isinstance(definition.node, ast.expr):
        yield from _union_members(definition.module, definition.node)
        return
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        # `Annotated` without bounds, as around a union with a default kind, is its first argument.
        inner, *metadata = _arguments(annotation)
        if not any(map(_describe_bound, metadata)):
            yield from _union_members(module, inner)
            return
    yield module, annotation


def _class_of(module: str, annotation: ast.expr) -> _Definition | None:
    """Return the definition of the config class that an expression names."""
    definition = _resolve(module, annotation.id) if isinstance(annotation, ast.Name) else None
    return definition if definition is not None and isinstance(definition.node, ast.ClassDef) else None


def _tag(definition: _Definition) -> str | None:
    """Return the text in ``kind: Literal["text"]`` of a class."""
    if "kind" not in (fields := _class_fields(definition)):
        return None
    return next(iter(_literal_words(definition.module, fields["kind"][1].annotation)), None)


@functools.cache
def _resolve(module: str, name: str) -> _Definition | None:
    """Resolve a name in a module of secateur, through imports; return `None` for names from elsewhere."""
    node = _names(module).get(name)
    if isinstance(node, ast.ImportFrom):
        # In `from secateur.x import a as b`, the name b is a in secateur.x.
        source = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        return _resolve(node.module, source) if node.module and node.module.startswith("secateur") else None
    return _Definition(module, node) if node is not None else None


@functools.cache
def _names(module: str) -> dict[str, ast.AST]:
    """Return the class, expression or import behind every name at the top of a module."""
    # "secateur.data.sources" -> secateur/data/sources.py, "secateur.gates" -> secateur/gates/__init__.py
    path = _SOURCE_FOLDER / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names: dict[str, ast.AST] = {}
    statements = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while statements:
        statement = statements.pop(0)
        if isinstance(statement, ast.If):  # `if TYPE_CHECKING:`, whose imports name types, too
            statements = [*statement.body, *statements]
        elif isinstance(statement, ast.ClassDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            names |= {alias.asname or alias.name: statement for alias in statement.names}
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement.value
    return names
