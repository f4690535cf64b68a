"""Count the calls that ask "which model is this?" instead of using the handle of `secateur.hf.model_view`.

    python tools/count_model_questions.py

Prints every call outside the files that define such a function, then every place where a view is made.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "secateur"

QUESTIONS = (
    "stock_type",
    "encoder_config",
    "encoder_path",
    "encoder_of",
    "base_of",
    "family_of",
    "ending_of",
    "ending_held_by",
    "shape_of",
    "declare",
)
#: Constructors of views.
VIEWS = ("ModelView.of", "ModelView", "ConfigView.of_config", "ConfigView")

#: The handle itself, and the files that define the questions.
DEFINITIONS = ("hf/model_view.py", "hf/declare.py", "hf/models.py", "architectures/registry.py")

#: Names of other functions that only look like a question: verbs of the command line, rows of an architecture's table.
_UNRELATED_FILES = ("cli.py", "cli/")


def main() -> None:
    """Print both counts for this repository's source."""
    questions: list[str] = []
    views: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            line = f"{name}:{node.lineno}: {ast.unparse(node)[:80]}"
            if function in QUESTIONS and name not in DEFINITIONS and not name.startswith(_UNRELATED_FILES):
                questions.append(line)
            if function in VIEWS and name != "hf/model_view.py":
                views.append(line)
    for title, lines in (("questions outside the handle", questions), ("views made", views)):
        print(f"{title}: {len(lines)} in {len({line.partition(':')[0] for line in lines})} files")
        print("".join(f"  {line}\n" for line in lines))


if __name__ == "__main__":
    main()
