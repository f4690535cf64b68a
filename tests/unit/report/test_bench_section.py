"""The section on what `bench` measured, against the figures of its record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_example
from bs4 import BeautifulSoup

from secateur.errors import SecateurError
from secateur.report import write_report

Section = Callable[[dict[str, Any]], Any]


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """The section of a page whose run folder has this bench record."""

    def make(record: dict[str, Any]) -> Any:
        run = report_example.write(tmp_path / "run", lines=False)
        (run / "bench.json").write_text(json.dumps(record))
        return BeautifulSoup(write_report(run).read_text(encoding="utf-8"), "html.parser").find(id="bench")

    return make


def words(tag: Any) -> str:
    return str(tag.get_text(" ", strip=True)).replace("\u202f", " ").replace("\u00a0", " ")


def test_without_a_record_there_is_no_section(page: BeautifulSoup) -> None:
    assert page.find(id="bench") is None


def test_the_table_has_a_row_for_each_model_form_and_case(section: Section) -> None:
    result = section(report_example.bench())
    assert "Example Processor" in words(result)
    assert "medians of 9 runs" in words(result)
    rows = [[words(cell) for cell in row.select("th, td")] for row in result.select("table")[0].select("tbody tr")]
    assert len(rows) == 8
    assert rows[0] == [
        "example/dense as it is, random weights",
        "1 × 10 s, fp32, 2 threads",
        "480 ms 466 ms to 518 ms",
        "1.00×",
        "0.0480",
        "20.8 s of audio per s",
        "580 MiB",
    ]
    assert rows[-1][0] == "example/cut for_inference"
    assert rows[-1][5] == "148 s of audio per s"


def test_bars_of_one_case_have_one_scale_and_add_up_to_the_time(section: Section) -> None:
    record = report_example.bench()
    boxes = section(record).select(".stackbox")
    assert [words(box.find("h4")) for box in boxes] == ["1 × 10 s, fp32, 2 threads", "4 × 10 s, fp32, 2 threads"]
    legend = [words(item) for item in boxes[0].parent.find_previous("ul").select("li")]
    assert legend == list(record["rows"][0]["blocks_ms"])
    for box, rows in zip(boxes, (record["rows"][:4], record["rows"][4:]), strict=True):
        longest = max(sum(row["blocks_ms"].values()) for row in rows)
        for picture, row in zip(box.find_all("svg"), rows, strict=True):
            widths = [float(part["width"].rstrip("%")) for part in picture.find_all("rect")]
            assert widths == pytest.approx(
                [100 * selected_items / longest for selected_items in row["blocks_ms"].values()], abs=1e-3
            )
            assert [part["class"][1] for part in picture.find_all("rect")] == [f"p{i}" for i in range(6)]


def test_the_time_of_each_block_is_also_listed_in_a_table(section: Section) -> None:
    table = section(report_example.bench()).select("details table")[0]
    columns = [words(cell) for cell in table.select("thead th")]
    assert columns == ["Model", "front end", "projection", "positional conv", "attention", "feed-forward", "rest"]
    rows = [[words(cell) for cell in row.find_all("td")] for row in table.select("tbody tr")]
    assert [row[3] for row in rows[:4]] == ["136 ms", "102 ms", "31.8 ms", "23.9 ms"]


def test_pictures_have_names_of_their_own(section: Section) -> None:
    ids = [tag["id"] for tag in section(report_example.bench()).find_all(id=True)]
    assert len(ids) == 16  # a title and a description of each of eight
    assert len(set(ids)) == len(ids)


def test_markup_in_names_is_shown_and_never_run(section: Section) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    record = report_example.bench()
    record["rows"][0] |= {"name": evil, "form": evil, "dtype": evil}
    record["rows"][0]["blocks_ms"][evil] = 3.0
    record["environment"]["cpu"] = record["config"]["repeats"] = evil
    result = section(record)
    assert not result.find_all(["script", "img"])
    assert evil in result.get_text()


def test_a_record_without_blocks_or_rows_has_as_much_of_a_section_as_it_can(section: Section) -> None:
    record = report_example.bench()
    for row in record["rows"]:
        row["blocks_ms"] = {"rest": 0.0}
        del row["peak_mib"]
    result = section(record)
    assert not result.find_all("svg")
    assert words(result.select("tbody tr")[0]).endswith("–")
    assert section(record | {"rows": []}) is None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"median_ms": "nan"}, "rows.0.median_ms"),
        ({"seconds": 0}, "rows.0.seconds"),
        ({"blocks_ms": {"attention": -1}}, "rows.0.blocks_ms.attention"),
        ({"blocks_ms": {"attention": "inf"}}, "rows.0.blocks_ms.attention"),
        ({"name": None}, "rows.0.name"),
    ],
)
def test_a_malformed_record_is_refused_in_one_sentence(section: Section, change: dict[str, Any], place: str) -> None:
    record = copy.deepcopy(report_example.bench())
    record["rows"][0] |= change
    with pytest.raises(SecateurError, match=rf"bench\.json: .* at {place}") as caught:
        section(record)
    assert "\n" not in str(caught.value)
