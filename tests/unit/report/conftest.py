"""A made-up run folder, and its page, parsed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import report_example
from bs4 import BeautifulSoup

from secateur.report import write_report


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example run."""
    return report_example.write(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def page(run: Path) -> BeautifulSoup:
    """The example's page."""
    return BeautifulSoup(write_report(run).read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[dict[str, Any]], BeautifulSoup]:
    """The page of a record without metrics."""

    def make(record: dict[str, Any]) -> BeautifulSoup:
        folder = report_example.write(tmp_path / "run", record, lines=False)
        return BeautifulSoup(write_report(folder).read_text(encoding="utf-8"), "html.parser")

    return make
