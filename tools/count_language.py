"""Count how the source reads: identifiers, first docstring lines, comments, doubled names, and lines.

    python tools/count_language.py src/secateur
    python tools/count_language.py src/secateur --list identifiers   # where they are: also docstrings, classes, files

An identifier is counted where it is bound: functions, classes, parameters, assigned names and attributes. A first
docstring line leans on a pronoun when it has a word of `PRONOUNS`, or `that`/`which` as a pronoun of its own (at the
start, or behind a preposition, verb or comma, instead of behind the noun it belongs to).
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

FUNCTION_WORDS = frozenset(
    """
    about above across after again against ahead alike all alone along also any anew apart around
    aside asked at away back be before began begin beginning begun behind below beneath beside
    besides between beyond both broken by came chosen claimed closed come done down each either else
    ended enough even ever every everything excused few fewer first_ for found from further given
    goes going gone good got had happened has have having he heard held hence her here hers his how
    if in inside instead into is it its itself just kept known lacking last_ later least left less
    like likely listed lost lying made many meant met mine more most much must named near nearly
    needed needy neither never new nobody none nor not nothing now of off often old on once one ones
    only onto open_ opened or other others ours out_ outside over own per put read_ ready refused
    remembered rest said same saved seen shall she should shown since so some something soon spent
    started still stored such taken than that their theirs them then there these they thing things
    this those though through thus till to together told too took touched toward turned twice under
    unknown unlike until up upon us usable used very wanted was we went were what when whence where
    whether which while who whole whom whose why will with within without worst written wrong yet
    you yours
    """.split()  # noqa: SIM905
)
PRONOUNS = frozenset(
    """
    it its itself they them their theirs themselves he she his her hers him we us our ours mine you
    your yours this these those what whatever whose who whom one ones other others each_ both none
    nothing anything everything something nobody anybody everybody all_ any_ some_ such_ there here
    """.split()  # noqa: SIM905
)
OPENINGS = ("what", "whether", "how", "that")
#: A bare `that` or `which` behind one of these words is a pronoun without its noun: "what came of that".
_BEFORE_BARE = frozenset(
    "of for from to by with in at on as is are was than and or but before after like".split()  # noqa: SIM905
)


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the identifier of each binding in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg() if node.arg not in ("self", "cls"):
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def first_lines(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the first docstring line of a module and of each of its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text.partition("\n")[0]


def leans_on_pronoun(line: str) -> bool:
    """Return whether a first docstring line has a pronoun in the place of a noun."""
    words = re.findall(r"[a-z]+|[.,;:()]", re.sub(r"`[^`]*`|``[^`]*``", "x", line.lower()))
    if PRONOUNS.intersection(words):
        return True
    for previous, word in zip([".", *words], words, strict=False):
        if word in ("that", "which") and (previous in _BEFORE_BARE or previous == "."):
            return True
    return False


def count_comment_lines(source: str) -> int:
    """Return the number of lines of a file that have a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def main() -> int:
    parser = argparse.ArgumentParser(description="Count how the source of a package reads.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", choices=("identifiers", "docstrings", "classes", "files"), help="print each place")
    options = parser.parse_args()
    names: list[tuple[Path, int, str]] = []
    lines: list[tuple[Path, int, str]] = []
    classes: dict[str, list[Path]] = defaultdict(list)
    files: dict[str, list[Path]] = defaultdict(list)
    total = comments = 0
    paths = sorted(options.folder.rglob("*.py"))
    for path in paths:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        names += [(path, line, name) for line, name in bound_names(tree)]
        lines += [(path, line, text) for line, text in first_lines(tree)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(path)
        if path.name not in ("__init__.py", "__main__.py"):
            files[path.name].append(path)
        rows = source.splitlines()
        total += len(rows)
        comments += count_comment_lines(source)
    bare = [(path, line, name) for path, line, name in names if name.strip("_").lower() in FUNCTION_WORDS]
    leaning = [(path, line, text) for path, line, text in lines if leans_on_pronoun(text)]
    opening = [row for row in lines if row[2].lower().startswith(tuple(f"{word} " for word in OPENINGS))]
    doubled_classes = {name: where for name, where in classes.items() if len(where) > 1}
    doubled_files = {name: where for name, where in files.items() if len(where) > 1}
    match options.list:
        case "identifiers":
            for path, line, name in bare:
                print(f"{path}:{line}: {name}")
        case "docstrings":
            for path, line, text in sorted({*leaning, *opening}):
                print(f"{path}:{line}: {text}")
        case "classes":
            for name, where in doubled_classes.items():
                print(name, *where)
        case "files":
            for name, where in doubled_files.items():
                print(name, *where)
    print(f"lines                                    {total:,} in {len(paths)} files")
    bare_share, leaning_share = 100 * len(bare) / len(names), 100 * len(leaning) / len(lines)
    print(f"identifiers that are a function word     {bare_share:.2f} % ({len(bare)} of {len(names):,})")
    print(f"first docstring lines leaning on pronoun {leaning_share:.1f} % ({len(leaning)} of {len(lines):,})")
    print(f"... beginning What, Whether, How, That   {100 * len(opening) / len(lines):.1f} %")
    print(f"comments, share of lines                 {100 * comments / total:.1f} %")
    print(f"class names defined more than once       {len(doubled_classes)}")
    print(f"files that share a basename              {sum(map(len, doubled_files.values()))}")
    print(f"files above 400 lines                    {sum(len(p.read_text().splitlines()) > 400 for p in paths)}")
    counted = Counter(name.strip("_").lower() for _, _, name in bare)
    if counted:
        print("most frequent:", ", ".join(f"{name} {count}" for name, count in counted.most_common(40)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
