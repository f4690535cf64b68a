"""What each section says, against the record's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import report_example
from bs4 import BeautifulSoup

from secateur.records.cost_record import BlockCosts, CostRecord
from secateur.records.metrics import MetricsPoint
from secateur.records.run import AxisRecord, ConstraintRecord, StageRecord, TimeRecord
from secateur.report.costs import build_stacks
from secateur.report.gates import build_constraint_rows
from secateur.report.kept_units import build_layers
from secateur.report.stages import describe_speedup
from secateur.report.trajectories import build_trajectories

PageOf = Callable[[dict[str, Any]], BeautifulSoup]


def test_the_grid_of_heads_shows_exactly_the_kept_ones(page: BeautifulSoup) -> None:
    remaining_shape = report_example.shape()["heads"]
    picture = page.select_one("svg[aria-labelledby^='heads-title']")
    tips = {tip.get_text() for tip in picture.select("rect > title")}  # type: ignore[union-attr]
    for layer, alive in enumerate(remaining_shape):
        for head in range(report_example.HEADS) if alive is not None else ():
            name = f"layer {layer}, head {head}"
            wide, deep = alive.get(head, (0, 0))
            kept_units = f"{name}: query/key {wide} of 64, value/output {deep} of 64"
            assert (kept_units if head in alive else f"{name}: removed") in tips
        if alive is None:
            assert not any(tip.startswith(f"layer {layer}, head") for tip in tips)


def test_removed_blocks_are_crossed(page: BeautifulSoup) -> None:
    remaining_shape = report_example.shape()
    for name, removed in (
        ("heads", sum(alive is None for alive in remaining_shape["heads"])),
        ("units", sum(units is None for units in remaining_shape["units"])),
    ):
        picture = page.select_one(f"svg[aria-labelledby^='{name}-title']")
        assert len(picture.select("line.strike")) == removed  # type: ignore[union-attr]


def test_bars_are_as_long_as_the_share_that_is_kept(page: BeautifulSoup) -> None:
    picture = page.select_one("svg[aria-labelledby^='channels-title']")
    full = [float(bar["width"]) + 2 for bar in picture.select("rect.pruned")]  # type: ignore[union-attr]
    kept_units = [float(bar["width"]) + 2 for bar in picture.select("rect.kept")]  # type: ignore[union-attr]
    shares = [channels / 512 for channels in report_example.shape()["channels"]]
    assert [k / f for k, f in zip(kept_units, full, strict=True)] == pytest.approx(shares, abs=1e-3)


def test_groups_of_the_positional_convolution_are_drawn_and_listed(page: BeautifulSoup) -> None:
    picture = page.select_one("svg[aria-labelledby^='groups-title']")
    assert picture.select_one("title").text == "Positional convolution groups left"  # type: ignore[union-attr]
    full, kept_units = (float(picture.select_one(f"rect.{kind}")["width"]) + 2 for kind in ("pruned", "kept"))  # type: ignore
    assert kept_units / full == pytest.approx(11 / 16, abs=1e-3)
    assert "Kept groups of the positional convolution: 11 of 16" in page.text
    assert "positional convolution groups" in page.select_one("#gates").text  # type: ignore[union-attr]


def test_dimensions_that_all_heads_share_count_once_for_each_head_that_is_left() -> None:
    path = "layers.0.self_attn"
    sizes = {"heads": (4, 3), "qk": (8, 5), "vo": (8, 2)}
    result = [
        AxisRecord(name=f"{path}/{kind}", kind=kind, layer=0, original=initial, before=initial, kept=kept_units)
        for kind, (initial, kept_units) in sizes.items()
    ]
    (layer,) = build_layers(result)
    assert [head.is_alive for head in layer.heads] == [True, True, True, False]
    assert (layer.query_key, layer.value_output) == ((15, 32), (6, 32))


def test_where_heads_are_not_known_only_their_number_is_shown() -> None:
    axis = AxisRecord(name="encoder.layers.0.attention/heads", kind="heads", layer=0, original=4, before=4, kept=3)
    layer = build_layers([axis])[0]
    assert not layer.has_head_positions
    assert [head.is_alive for head in layer.heads] == [True, True, True, False]


def test_a_removed_layer_takes_its_blocks_with_it() -> None:
    path = "encoder.layers.1"
    sizes = {
        f"{path}.attention/heads": ("heads", 2),
        f"{path}.feed_forward/units": ("units", 8),
        f"{path}/layer": ("layer", 0),
    }
    result = [
        AxisRecord(name=name, kind=kind, layer=1, original=8, before=8, kept=kept_units)
        for name, (kind, kept_units) in sizes.items()
    ]
    layer = build_layers(result)[0]
    assert layer.is_removed
    assert layer.is_attention_removed
    assert [alternative.is_removed for alternative in layer.other_blocks] == [True]


def test_stacked_bars_are_as_long_as_the_cost_and_sum_to_it() -> None:
    initial = {
        "feature_extractor.conv_layers.0": CostRecord(parameters=100),
        "encoder.layers.0.attention": CostRecord(parameters=300),
    }
    final = {
        "feature_extractor.conv_layers.0": CostRecord(parameters=40),
        "encoder.layers.0.attention": CostRecord(parameters=60),
    }
    (stack,) = build_stacks(BlockCosts(before=initial, after=final))
    widths = [
        [float(bar["width"].rstrip("%")) for bar in BeautifulSoup(bar.svg, "html.parser").select("rect")]
        for bar in stack.bars
    ]
    assert widths == [[25.0, 75.0], [10.0, 15.0]]
    assert [row[4].replace("\u202f", " ") for row in stack.parts] == ["40.0 %", "20.0 %"]


@pytest.mark.parametrize(("counted", "met"), [(100, True), (99, True), (101, False)])
def test_a_constraint_is_met_when_its_count_is_not_above_its_limit(counted: int, met: bool) -> None:
    (row,) = build_constraint_rows([ConstraintRecord(name="a", limit=100, counted=counted, dense=500)])
    assert row.is_met is met
    assert ('class="over"' in str(row.gauge)) is not met


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((90, 100, 110), (45, 50, 55), "2.0× faster"),
        ((45, 50, 55), (90, 100, 110), "2.0× slower"),
        ((90, 100, 110), (95, 98, 101), "no difference in time beyond the spread"),
    ],
)
def test_faster_is_only_said_where_the_spreads_do_not_touch(
    before: tuple[float, ...], after: tuple[float, ...], words: str
) -> None:
    first_item, other_value = (
        TimeRecord(low_ms=low, median_ms=median, high_ms=high) for low, median, high in (before, after)
    )
    assert describe_speedup(first_item, other_value) == words


def test_seconds_are_counted_at_the_rate_of_the_record_and_without_one_at_16_khz(page_of: PageOf) -> None:
    record = report_example.record()
    record["data"]["train"] |= {"hours": 0.5, "sample_rate": 8000}
    for stage in record["stages"]:
        stage["sample_rate"] = 8000
    text = page_of(record).get_text()
    assert "multiply-accumulates at 2\u00a0s" in text
    assert "at 8\u00a0kHz" in text
    assert StageRecord(name="dense", samples=24_000).seconds == 1.5


def test_times_under_different_conditions_are_not_compared(page_of: PageOf) -> None:
    record = report_example.record()
    record["stages"][2]["time"]["threads"] = 8
    page = page_of(record)
    assert "cannot be compared" in page.get_text()
    assert "faster" not in page.get_text()


def test_a_broken_proof_and_an_exceeded_limit_show_in_the_badges(page_of: PageOf) -> None:
    record = report_example.record()
    record["verification"]["holds"] = False
    record["constraints"][0]["counted"] = 10**9
    badges = [badge.get_text() for badge in page_of(record).select(".badges .bad")]
    assert len(badges) == 2
    assert "not proven" in badges[0]
    assert "1 of 2 constraints met" in badges[1]


def test_the_cost_of_rounding_is_listed_by_constraint_and_by_kind(page_of: PageOf) -> None:
    page = page_of(report_example.record())
    table = page.select_one("[aria-label='Cost of rounding']")
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in table.select("tbody tr")]  # type: ignore[union-attr]
    assert rows == [
        ["convolution channels", "32", "61", "70"],
        ["feed-forward units", "1", "12", "0"],
        ["heads", "–", "0", "1"],
    ]
    words = page.find(id="gates").get_text().replace("\u202f", " ")  # type: ignore[union-attr]
    assert "gated: rounding keeps 0.12 % of the dense cost less." in words
    assert "macs: rounding keeps 0.04 % of the dense cost more." in words
    record = report_example.record()
    del record["rounding"]
    assert "ounding" not in page_of(record).find(id="gates").get_text()  # type: ignore[union-attr]


def test_each_group_of_metrics_has_its_chart_and_the_unknown_ones_theirs() -> None:
    values = {"loss": 1.0, "kept/a": 0.9, "target/a": 1.0, "lambda1/a": 0.1, "lambda2/a": 0.2, "open/heads": 0.8}
    values |= {"undecided": 0.5, "novel": 3.0, "tail/x": 1.0, "tail/y": 2.0}
    points = [MetricsPoint(phase="learn", step=step, values=values) for step in (1, 2, 3)]
    (result,) = build_trajectories(points)
    titles = ["Loss", "Kept share against target", "Multipliers", "Open share by kind", "Undecided share of the gates"]
    assert [chart.title for chart in result.charts] == titles
    assert [(chart.title, len(chart.legend)) for chart in result.other_charts] == [("novel", 1), ("tail", 2)]
    assert [curve.style for curve in result.charts[1].legend] == ["solid", "dashed"]


def test_a_loss_that_is_of_hidden_states_alone_is_one_line() -> None:
    points = [
        MetricsPoint(phase="recover", step=step, values={"loss": 1 / step, "distill": 1 / step}) for step in (1, 2)
    ]
    (result,) = build_trajectories(points)
    assert [curve.name for curve in result.charts[0].legend] == ["hidden states"]


def test_the_scores_of_a_task_are_named_and_formatted_as_its_record_declares(page_of: PageOf) -> None:
    data = report_example.task_record()
    data["task"]["score_info"]["wer"] = {"title": "Perplexity", "direction": "lower", "is_share": False}
    text = page_of(data).get_text()
    assert "Speech recognition (CTC), fine-tuned first" in text
    assert "Perplexity" in text
    assert "Character error rate" in text
    assert "0.1230" in text  # a number, not a percentage


def test_the_scores_of_a_record_without_declarations_are_shown_by_their_names(page_of: PageOf) -> None:
    data = report_example.task_record()
    del data["task"]["title"], data["task"]["score_info"]
    text = page_of(data).get_text().replace("\u202f", " ").replace("\u00a0", " ")
    assert "wer, lower is better" in text
    assert "12.30 %" in text
