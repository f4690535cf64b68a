"""Summary of a run, in a sentence and in tiles, and the table of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.records.run import RunRecord, StageRecord, TaskRecord, TimeRecord
from secateur.report.formatting import (
    format_count,
    format_exact,
    format_milliseconds,
    format_number,
    format_percent,
    format_si,
)
from secateur.report.gates import is_met
from secateur.report.task_scores import Score, list_scores, primary_score

#: Column titles by stage name.
STAGE_LABELS = {"dense": "Teacher", "shrunk": "After shrink", "recovered": "After recover"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Table cell: a text and a detail in small print below."""

    text: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class StageTable:
    """Table with a row per measure and a column per stage."""

    stages: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]  # measure, explanation, a cell per stage
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SummaryTile:
    """Number of the summary in large print, and the clause about the number in the sentence."""

    caption: str
    dense_text: str
    final_text: str
    gain: str
    clause: str


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Result of a run: sentence, tiles and badges."""

    sentence: str
    tiles: tuple[SummaryTile, ...]
    badges: tuple[tuple[str, str], ...]  # state (good, warn or bad), text


def build_summary(record: RunRecord) -> RunSummary:
    """Build the summary of a run."""
    dense_stage = next((stage for stage in record.stages if stage.name == "dense"), None)
    final_stage = record.stages[-1] if record.stages and record.stages[-1] is not dense_stage else None
    badges = tuple(_badges(record))
    if final_stage is None:
        return RunSummary(sentence=_describe_single_stage(dense_stage), tiles=(), badges=badges)
    primary = primary_score(record.task)
    tiles = [*_score_tile(primary, dense_stage, final_stage), *_cost_tiles(dense_stage, final_stage)]
    sentence = ", ".join(tile.clause for tile in tiles)
    return RunSummary(sentence=sentence[:1].upper() + sentence[1:] + ".", tiles=tuple(tiles), badges=badges)


def _badges(record: RunRecord) -> list[tuple[str, str]]:
    """Return the badges: proof and drop-in contract, constraints, and skipped files."""
    badges = []
    if record.verification:
        proven = record.verification.is_proven
        words = "the cut model equals the masked model" if proven else "the cut model is not proven equal"
        badges.append(("good" if proven else "bad", words))
        broken_lines = sum(not check.holds for check in record.verification.checks if not check.is_proof)
        if proven and broken_lines:
            badges.append(("warn", f"{format_count(broken_lines, 'check')} of the drop-in contract failed"))
    constraint_results = [is_met(constraint) for constraint in record.constraints]
    counted_constraints, met_count = (
        sum(is_constraint_met is not None for is_constraint_met in constraint_results),
        sum(is_constraint_met is True for is_constraint_met in constraint_results),
    )
    if counted_constraints:
        words = format_count(counted_constraints, "constraint")
        is_all_met = met_count == counted_constraints
        badges.append(("good", f"{words} met by count") if is_all_met else ("bad", f"{met_count} of {words} met"))
    if record.data and record.data.skipped:
        badges.append(("warn", f"{format_count(len(record.data.skipped), 'file')} skipped"))
    return badges


def _describe_single_stage(stage: StageRecord | None) -> str:
    if stage is None:
        return ""
    parts = []
    if stage.parameters is not None:
        parts.append(f"{format_si(stage.parameters)} parameters")
    if stage.macs is not None:
        parts.append(f"{format_si(stage.macs, 'MAC')}{_duration_suffix(stage.seconds)}")
    return ", ".join(parts) + "." if parts else ""


def _score_tile(score: Score | None, dense_stage: StageRecord | None, final_stage: StageRecord) -> list[SummaryTile]:
    """Return a tile for the primary score of the task, or no tile if the last stage lacks the score."""
    if score is None or score.name not in final_stage.scores:
        return []
    value, dense_score = final_stage.scores[score.name], dense_stage.scores.get(score.name) if dense_stage else None
    dense_text, final_text = score.format(dense_score) if dense_score is not None else "", score.format(value)
    return [
        SummaryTile(
            caption=f"{score.phrase}, {score.direction_text}",
            dense_text=dense_text,
            final_text=final_text,
            gain=score.describe_difference(dense_score, value) or "the teacher has no score",
            clause=f"{score.phrase} {_format_change(dense_text, final_text) if dense_text else final_text}",
        )
    ]


def _cost_tiles(dense_stage: StageRecord | None, final_stage: StageRecord) -> list[SummaryTile]:
    tiles = []
    if dense_stage and dense_stage.parameters and final_stage.parameters is not None:
        dense_text, final_text = format_si(dense_stage.parameters), format_si(final_stage.parameters)
        tiles.append(
            SummaryTile(
                caption="parameters",
                dense_text=dense_text,
                final_text=final_text,
                gain=f"{format_percent(final_stage.parameters / dense_stage.parameters, 0)} kept",
                clause=f"{_format_change(dense_text, final_text)} parameters",
            )
        )
    # MACs of different audio lengths are not comparable.
    if dense_stage and dense_stage.macs and final_stage.macs is not None and dense_stage.seconds == final_stage.seconds:
        dense_text, final_text = format_si(dense_stage.macs, "MAC"), format_si(final_stage.macs, "MAC")
        tiles.append(
            SummaryTile(
                caption=f"multiply-accumulates{_duration_suffix(dense_stage.seconds)}",
                dense_text=dense_text,
                final_text=final_text,
                gain=f"{format_percent(final_stage.macs / dense_stage.macs, 0)} kept",
                clause=_format_change(dense_text, final_text),
            )
        )
    if (
        dense_stage
        and dense_stage.time
        and final_stage.time
        and _has_same_conditions(dense_stage.time, final_stage.time)
    ):
        gain = describe_speedup(dense_stage.time, final_stage.time)
        tiles.append(
            SummaryTile(
                caption=f"measured here, {_describe_conditions(dense_stage.time)}",
                dense_text=format_milliseconds(dense_stage.time.median_ms),
                final_text=format_milliseconds(final_stage.time.median_ms),
                gain=gain,
                clause=f"{gain} here",
            )
        )
    if final_stage.cosine:
        mean = sum(final_stage.cosine) / len(final_stage.cosine)
        tiles.append(
            SummaryTile(
                caption=f"cosine to the teacher, mean of {len(final_stage.cosine)} hidden states",
                dense_text="",
                final_text=format_number(mean),
                gain=f"lowest {format_number(min(final_stage.cosine))}",
                clause=f"cosine to the teacher {format_number(mean)}",
            )
        )
    return tiles


def _format_change(dense_text: str, final_text: str) -> str:
    """Format a change without a line break, a common unit once: ``6.91 → 1.39 GMAC``."""
    # "6.91\u202fGMAC" -> number "6.91", unit "GMAC"
    number, _, unit = dense_text.partition("\u202f")
    has_same_unit = unit == final_text.partition("\u202f")[2]
    return f"{number if has_same_unit else dense_text}\u00a0→\u00a0{final_text}"


def describe_speedup(dense_time: TimeRecord, cut_time: TimeRecord) -> str:
    """Describe the speedup: ``2.1× faster``, or no difference if the ranges of the two measurements overlap."""
    # The ranges [low, high] of the two measurements overlap.
    if dense_time.low_ms <= cut_time.high_ms and cut_time.low_ms <= dense_time.high_ms:
        return "no difference in time beyond the spread"
    factor = dense_time.median_ms / cut_time.median_ms
    return f"{format_number(factor, 2)}× faster" if factor >= 1 else f"{format_number(1 / factor, 2)}× slower"


def _has_same_conditions(first_time: TimeRecord, second_time: TimeRecord) -> bool:
    return (first_time.seconds_of_audio, first_time.batch, first_time.threads) == (
        second_time.seconds_of_audio,
        second_time.batch,
        second_time.threads,
    )


def _describe_conditions(time: TimeRecord) -> str:
    parts = []
    if time.seconds_of_audio is not None:
        parts.append(f"{time.seconds_of_audio:g}\u00a0s of audio")
    if time.batch is not None and time.batch != 1:
        parts.append(f"batch {time.batch}")
    if time.threads is not None:
        parts.append(format_count(time.threads, "thread"))
    return ", ".join(parts)


def _duration_suffix(seconds: float | None) -> str:
    return f" at {round(seconds, 2):g}\u00a0s" if seconds else ""


def build_stage_table(stages: Sequence[StageRecord], task: TaskRecord | None = None) -> StageTable:
    """Build the table of stages; a measure that no stage has is left out."""
    dense_stage = stages[0]
    times = [stage.time for stage in stages if stage.time]
    seconds = next((stage.seconds for stage in stages if stage.seconds), None)
    conditions = _describe_conditions(times[0]) if times else ""
    rows = [
        (
            "Parameters",
            "of the encoder",
            _stage_cells(stages, lambda s: _count_cell(s.parameters, dense_stage.parameters)),
        ),
        (
            "Multiply-accumulates",
            f"for{_duration_suffix(seconds).removeprefix(' at')} of audio" if seconds else "",
            _stage_cells(stages, lambda s: _count_cell(s.macs, dense_stage.macs, "MAC")),
        ),
        (
            "Time",
            f"median and spread, {conditions}".rstrip(", "),
            _stage_cells(stages, lambda s: _time_cell(s.time, dense_stage.time)),
        ),
        *(_score_row(score, stages) for score in list_scores(stages, task)),
        ("Distillation loss", "on held-out audio", _stage_cells(stages, lambda s: _loss_cell(s.loss))),
        ("Cosine to the teacher", "mean and lowest hidden state", _stage_cells(stages, _cosine_cell)),
    ]
    notes = []
    if any(not _has_same_conditions(times[0], time) for time in times[1:]):
        notes.append("The times were not measured under the same conditions and cannot be compared.")
    if not dense_stage.scores and any(stage.scores for stage in stages):
        notes.append("The teacher has no score because its task head was not trained, so no difference is shown.")
    return StageTable(
        stages=tuple(STAGE_LABELS.get(stage.name, stage.name) for stage in stages),
        # A dash stands for a missing value.
        rows=tuple(row for row in rows if any(cell.text != "–" for cell in row[2])),
        notes=tuple(notes),
    )


def _stage_cells(stages: Sequence[StageRecord], cell: Callable[[StageRecord], Cell]) -> tuple[Cell, ...]:
    return tuple(cell(stage) for stage in stages)


def _count_cell(value: int | None, dense: int | None, unit: str = "") -> Cell:
    if value is None:
        return Cell(text="–")
    part = f" · {format_percent(value / dense)}" if dense and value != dense else ""
    return Cell(text=format_si(value, unit), detail=format_exact(value) + part)


def _time_cell(time: TimeRecord | None, dense: TimeRecord | None) -> Cell:
    if time is None:
        return Cell(text="–")
    detail = f"{format_milliseconds(time.low_ms)} to {format_milliseconds(time.high_ms)}"
    if dense is not None and time is not dense and _has_same_conditions(time, dense):
        detail += f" · {describe_speedup(dense, time)}"
    return Cell(text=format_milliseconds(time.median_ms), detail=detail)


def _score_row(score: Score, stages: Sequence[StageRecord]) -> tuple[str, str, tuple[Cell, ...]]:
    """Build the row of a score, with the difference to the first stage."""

    def cell(stage: StageRecord) -> Cell:
        value = stage.scores.get(score.name)
        difference = score.format_difference(stages[0].scores.get(score.name), value) if stage is not stages[0] else ""
        return Cell(text=score.format(value), detail=difference)

    return score.title, ", ".join(filter(None, ("on held-out audio", score.direction_text))), _stage_cells(stages, cell)


def _loss_cell(value: float | None) -> Cell:
    return Cell(text=format_number(value, 4))


def _cosine_cell(stage: StageRecord) -> Cell:
    if not stage.cosine:
        return Cell(text="–")
    return Cell(
        text=format_number(sum(stage.cosine) / len(stage.cosine)), detail=f"lowest {format_number(min(stage.cosine))}"
    )
