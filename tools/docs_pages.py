"""MkDocs hook: pages of the site that live elsewhere in the repository, with links that work in both places.

`README.md`, `CONTRIBUTING.md`, `CHANGELOG.md`, `benchmarks/README.md` and the READMEs of the recipes become pages.
Every relative link is resolved as a path in the repository: a link to a page leads to the page, and a link to any other
file, such as a recipe, becomes the file's path as code. A link to a file that does not exist is an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
RECIPES = "src/secateur/recipes"
#: A link of Markdown: its text, its path, and its anchor. `[a](docs/data.md#speech)` -> a, docs/data.md, #speech
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def recipe_pages() -> list[str]:
    """Return the paths of the READMEs of the recipes, relative to the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / RECIPES).rglob("README.md"))


def site_path(repository_path: str) -> str | None:
    """Return the page of a file of the repository; None where the site has no such page."""
    if repository_path in PAGES:
        return PAGES[repository_path]
    if repository_path.startswith("docs/"):
        return repository_path.removeprefix("docs/")
    if repository_path in recipe_pages():  # src/secateur/recipes/wang2023/README.md -> recipes/wang2023.md
        name = posixpath.dirname(repository_path).removeprefix(f"{RECIPES}/").replace("/", "-")
        return f"recipes/{name}.md"
    return None


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that live outside `docs/`."""
    for source in (*PAGES, *recipe_pages()):
        page = site_path(source)
        assert page is not None
        files.append(File.generated(config, page, content=_rewritten(source, page)))
    files.append(File.generated(config, "recipes.md", content=_recipe_index()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page that lies in `docs/`."""
    path = page.file.src_uri
    is_generated = page.file.generated_by is not None
    return markdown if is_generated else _rewrite_links(markdown, f"docs/{path}", path)


def _recipe_index() -> str:
    """Return a page that lists the recipes with a README."""
    lines = ["# Recipes", "", "Each recipe has a page with its source, its command and its results.", ""]
    for source in recipe_pages():
        title = (ROOT / source).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}]({site_path(source)})")
    return "\n".join(lines) + "\n"


def _rewritten(source: str, page: str) -> str:
    return _rewrite_links((ROOT / source).read_text(encoding="utf-8"), source, page)


def _rewrite_links(markdown: str, source: str, page: str) -> str:
    """Return Markdown in which every relative link leads from `page` to another page of the site.

    Raises:
        PluginError: A link leads to a file that the repository lacks.
    """

    def rewrite(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / target).exists():
            raise PluginError(f"{source}: the link to {path!r} leads to {target!r}, which does not exist.")
        if (ROOT / target / "README.md").is_file():  # benchmarks/ -> benchmarks/README.md
            target = f"{target}/README.md"
        target_page = site_path(target)
        if target_page is None:
            return text if text.strip("`") in (path, target) else f"{text} (`{target}`)"
        return f"[{text}]({posixpath.relpath(target_page, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(rewrite, markdown)
