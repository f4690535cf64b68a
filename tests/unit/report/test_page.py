"""The page is whole, self-contained, safe, and says what the records say."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_example
from bs4 import BeautifulSoup

from secateur.errors import SecateurError
from secateur.records.run import RunRecord
from secateur.report import write_report
from secateur.report.view import build_view
from secateur.report.write import render_page

PageOf = Callable[[dict[str, Any]], BeautifulSoup]
SECTIONS = ["stages", "shape", "costs", "gates", "trajectories", "proof", "data", "recipe"]


def sections(page: BeautifulSoup) -> list[str]:
    return [str(section["id"]) for section in page.find_all("section")]


def test_the_page_has_every_section_in_order(page: BeautifulSoup) -> None:
    assert sections(page) == SECTIONS


def test_the_summary_states_the_result_in_words_and_numbers(page: BeautifulSoup) -> None:
    words = page.select_one(".summary").get_text().replace("\u202f", " ").replace("\u00a0", " ")  # type: ignore[union-attr]
    assert words == "94.4 → 22.6 M parameters, 6.91 → 1.32 GMAC, 2.6× faster here, cosine to the teacher 0.945."


def test_nothing_on_the_page_refers_to_anything_outside_it(run: Path, page: BeautifulSoup) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://|//\w|@import|url\(", text)
    assert not page.find_all(["link", "script", "img", "iframe", "object", "embed", "a"])
    assert not [tag for tag in page.find_all(True) if {"src", "href", "xlink:href"} & set(tag.attrs)]


def test_the_markup_is_balanced_and_ids_are_unique(run: Path, page: BeautifulSoup) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    balance = Balance()
    balance.feed(write_report(run).read_text(encoding="utf-8"))
    assert balance.open == []
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_every_picture_has_a_title_and_a_description_that_its_label_names(page: BeautifulSoup) -> None:
    pictures = page.find_all("svg")
    assert len(pictures) > 20
    for picture in pictures:
        names = str(picture["aria-labelledby"]).split()
        assert [picture.find(id=name).name for name in names] == ["title", "desc"]
        assert all(picture.find(id=name).get_text().strip() for name in names)


def test_every_header_cell_of_a_table_has_a_scope(page: BeautifulSoup) -> None:
    cells = page.find_all("th")
    assert cells
    assert {cell.get("scope") for cell in cells} == {"row", "col"}


def test_no_number_on_the_page_is_broken(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\binf\b|None|NaN", text)


def test_markup_in_names_from_files_is_shown_and_never_run(page_of: PageOf) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    record = report_example.record()
    record["name"] = evil
    record["data"]["skipped"] = [{"path": evil, "reason": evil}]
    record["data"]["train"]["name"] = evil
    record["recipe"]["note"] = "</pre></style>" + evil
    record["environment"][evil] = evil
    record["constraints"][0] |= {"name": evil, "label": evil}
    record["verification"]["checks"][0] |= {"name": evil, "detail": evil}
    record["gates"]["notes"] = [evil]
    record["gates"]["histogram"][evil] = [1] * 20
    record["rounding"]["multiples"][evil] = 8
    record["rounding"]["given_up"][evil] = 0.5
    record["stages"][2]["name"] = evil
    record["phases"][0]["name"] = evil
    record["blocks"]["after"][evil] = {"parameters": 5, "macs": 5}
    page = page_of(record)
    assert not page.find_all(["script", "img"])
    assert sections(page) == [name for name in SECTIONS if name != "trajectories"]
    assert page.select_one("code").get_text() == evil  # type: ignore[union-attr]


def test_markup_in_metrics_is_shown_and_never_run(tmp_path: Path) -> None:
    run = report_example.write(tmp_path / "run")
    line = {"phase": "<script>x</script>", "step": 1, "<img src=x>": 1.0, "kept/<b>": 0.5}
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write(json.dumps(line) + "\n")
    page = BeautifulSoup(write_report(run).read_text(encoding="utf-8"), "html.parser")
    assert not page.find_all(["script", "img"])
    assert "<img src=x>" in page.get_text()


@pytest.mark.parametrize("part", [part for part in report_example.record() if part != "format"])
def test_a_part_that_the_record_lacks_is_left_out(part: str, page_of: PageOf) -> None:
    record = report_example.record()
    del record[part]
    lost_value = {"axes": "shape", "blocks": "costs", "verification": "proof", "stages": "stages", "data": "data"}
    expected = [name for name in SECTIONS if name not in ("trajectories", lost_value.get(part))]
    assert sections(page_of(record)) == expected


def test_a_record_that_says_nothing_still_gives_a_page(page_of: PageOf) -> None:
    assert sections(page_of({"format": 1, "kind": "profile"})) == []


def test_a_profile_of_one_model_has_a_summary_and_its_stage(page_of: PageOf) -> None:
    record = {"format": 1, "kind": "profile", "name": "x", "stages": report_example.record()["stages"][:1]}
    page = page_of(record)
    assert sections(page) == ["stages"]
    words = page.select_one(".summary").get_text()  # type: ignore[union-attr]
    assert "94.4" in words
    assert "→" not in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, '"format": 1; got 2'),
        ({"stages": {"dense": 1}}, "at stages"),
        ({"axes": [{"name": "x", "kind": "heads", "original": -1, "before": 1, "kept": 1}]}, "at axes.0.original"),
        ({"verification": {"checks": []}}, "at verification.holds"),
        ({"gates": {"histogram": {"heads": ["many"]}}}, "at gates.histogram.heads.0"),
    ],
)
def test_a_malformed_record_is_refused_in_one_sentence(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    run = report_example.write(tmp_path / "run", report_example.record() | change, lines=False)
    with pytest.raises(SecateurError, match=re.escape(words)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("text", ["[]", "{", "nonsense", ""])
def test_a_record_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(SecateurError, match="record"):
        write_report(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="no such file"):
        write_report(tmp_path)


def test_a_line_that_is_no_metrics_line_is_named_and_a_last_one_cut_short_is_passed_over(tmp_path: Path) -> None:
    run = report_example.write(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write('{"phase": "recover", "st')
    write_report(run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = "[1, 2]"
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(SecateurError, match="line 2 is not a metrics line"):
        write_report(run)


def test_a_run_of_one_step_with_infinite_values_is_drawn(tmp_path: Path) -> None:
    record = report_example.record()
    record["verification"]["differences"] = ["inf", 0.0, 1e-7]
    record["stages"][2]["loss"] = "nan"
    run = report_example.write(tmp_path / "run", record, lines=False)
    (run / "metrics.jsonl").write_text('{"phase": "learn", "step": 1, "loss": 0.0, "distill": "inf", "kept/a": 1.0}\n')
    text = write_report(run).read_text(encoding="utf-8")
    assert "not a number" in text
    assert "infinite" in text


def test_skipped_files_are_counted_by_reason_and_the_first_fifty_listed(page: BeautifulSoup) -> None:
    data = page.find(id="data")
    assert "61 files skipped" in data.get_text()  # type: ignore[union-attr]
    reasons = [item.get_text() for item in data.select(".reasons li")]  # type: ignore[union-attr]
    assert reasons == ["21 too short", "20 silent", "20 not decodable"]
    assert len(data.select("table.files tbody tr")) == 50  # type: ignore[union-attr]


def test_the_page_is_written_to_the_given_path_and_replaces_an_older_page(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere.html"
    assert write_report(run, out) == out
    first = out.read_bytes()
    assert write_report(run, out).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere.html"]
    with pytest.raises(SecateurError, match="could not be written"):
        write_report(run, tmp_path / "no" / "such" / "folder.html")


def test_the_report_loads_neither_torch_nor_transformers(run: Path) -> None:
    code = (
        "import sys, pathlib; from secateur.report import write_report; write_report(pathlib.Path(sys.argv[1]))\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def _leaves(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to one leaf of each kind: of a list only the first item, of a mapping by block or kind the first."""
    if isinstance(part, dict):
        names = list(part)[:1] if path and path[-1] in ("before", "after", "kinds", "histogram") else list(part)
        for name in names:
            yield from _leaves(part[name], (*path, name))
    elif isinstance(part, list):
        yield from _leaves(part[0], (*path, 0)) if part else ()
    yield path


def test_any_part_may_be_of_any_value_and_gives_a_page_or_one_sentence() -> None:
    record = report_example.record()
    record["axes"] = [axis for axis in record["axes"] if axis["layer"] == 0]
    del record["recipe"], record["environment"]
    pages = sentences = 0
    for way in [way for way in _leaves(record) if way]:
        for value in ("nan", "inf", -1, {}):
            damaged = copy.deepcopy(record)
            part = damaged
            for name in way[:-1]:
                part = part[name]
            part[way[-1]] = value
            try:
                page = render_page(build_view(RunRecord.from_dict(damaged, path="record.json"), ()))
            except SecateurError:
                sentences += 1
            else:
                assert not re.search(r'="[^"]*\bnan', page), (way, value)
                pages += 1
    assert pages > 50
    assert sentences > 50
