"""Before and after: the headline in words and figures, and the table of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.report.gates import is_met
from secateur.report.record import Record, Stage, Task, Time
from secateur.report.scores import Score, headline_of, scores_of
from secateur.report.words import amount, exact, figure, milliseconds, plural, share

#: Stages in words.
NAMES = {"dense": "Teacher", "shrunk": "After shrink", "recovered": "After recover"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure, and a quieter line below it."""

    main: str
    more: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measures down, stages across."""

    stages: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]  # measure, what it means, one cell a stage
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One large figure of the headline, and its part of the sentence."""

    what: str
    before: str
    after: str
    gain: str
    clause: str


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The result: a sentence, and its figures large."""

    sentence: str
    tiles: tuple[Tile, ...]
    badges: tuple[tuple[str, str], ...]  # good, warn or bad; words


def headline(record: Record) -> Headline:
    """The result of a run in one sentence."""
    first = next((stage for stage in record.stages if stage.name == "dense"), None)
    last = record.stages[-1] if record.stages and record.stages[-1] is not first else None
    badges = tuple(_badges(record))
    if last is None:
        return Headline(sentence=_alone(first), tiles=(), badges=badges)
    main = headline_of(record.task)
    tiles = [*_score_tile(main, first, last), *_tiles(first, last)]
    sentence = ", ".join(tile.clause for tile in tiles)
    return Headline(sentence=sentence[:1].upper() + sentence[1:] + ".", tiles=tuple(tiles), badges=badges)


def _badges(record: Record) -> list[tuple[str, str]]:
    """What was proven, what was met, and what was left out."""
    found = []
    if record.verification:
        proven = record.verification.is_proven
        words = "the cut model equals the masked model" if proven else "the cut model is not proven equal"
        found.append(("good" if proven else "bad", words))
        broken = sum(not check.holds for check in record.verification.checks if not check.is_proof)
        if proven and broken:
            found.append(("warn", f"{plural(broken, 'line')} of the drop-in contract broken"))
    met = [is_met(constraint) for constraint in record.constraints]
    counted, kept = sum(one is not None for one in met), sum(one is True for one in met)
    if counted:
        words = plural(counted, "constraint")
        everything = kept == counted
        found.append(("good", f"{words} met by count") if everything else ("bad", f"{kept} of {words} met"))
    if record.data and record.data.skipped:
        found.append(("warn", f"{plural(len(record.data.skipped), 'file')} skipped"))
    return found


def _alone(stage: Stage | None) -> str:
    if stage is None:
        return ""
    parts = []
    if stage.parameters is not None:
        parts.append(f"{amount(stage.parameters)} parameters")
    if stage.macs is not None:
        parts.append(f"{amount(stage.macs, 'MAC')}{_at(stage.seconds)}")
    return ", ".join(parts) + "." if parts else ""


def _score_tile(score: Score | None, first: Stage | None, last: Stage) -> list[Tile]:
    """The main score of the task, where the last stage has it."""
    if score is None or score.name not in last.scores:
        return []
    value, dense = last.scores[score.name], first.scores.get(score.name) if first else None
    before, after = score.write(dense) if dense is not None else "", score.write(value)
    return [
        Tile(
            what=f"{score.phrase}, {score.direction}",
            before=before,
            after=after,
            gain=score.judged(dense, value) or "the teacher has no score",
            clause=f"{score.phrase} {_from_to(before, after) if before else after}",
        )
    ]


def _tiles(first: Stage | None, last: Stage) -> list[Tile]:
    tiles = []
    if first and first.parameters and last.parameters is not None:
        before, after = amount(first.parameters), amount(last.parameters)
        tiles.append(
            Tile(
                what="parameters",
                before=before,
                after=after,
                gain=f"{share(last.parameters / first.parameters, 0)} kept",
                clause=f"{_from_to(before, after)} parameters",
            )
        )
    if first and first.macs and last.macs is not None and first.seconds == last.seconds:
        before, after = amount(first.macs, "MAC"), amount(last.macs, "MAC")
        tiles.append(
            Tile(
                what=f"multiply-accumulates{_at(first.seconds)}",
                before=before,
                after=after,
                gain=f"{share(last.macs / first.macs, 0)} kept",
                clause=_from_to(before, after),
            )
        )
    if first and first.time and last.time and _alike(first.time, last.time):
        gain = speed(first.time, last.time)
        tiles.append(
            Tile(
                what=f"measured here, {_conditions(first.time)}",
                before=milliseconds(first.time.median_ms),
                after=milliseconds(last.time.median_ms),
                gain=gain,
                clause=f"{gain} here",
            )
        )
    if last.cosine:
        mean = sum(last.cosine) / len(last.cosine)
        tiles.append(
            Tile(
                what=f"cosine to the teacher, mean of {len(last.cosine)} hidden states",
                before="",
                after=figure(mean),
                gain=f"lowest {figure(min(last.cosine))}",
                clause=f"cosine to the teacher {figure(mean)}",
            )
        )
    return tiles


def _from_to(before: str, after: str) -> str:
    """``6.91 → 1.39 GMAC``: the unit once where it is the same, and no line break within."""
    figures, _, unit = before.partition("\u202f")
    same = unit == after.partition("\u202f")[2]
    return f"{figures if same else before}\u00a0→\u00a0{after}"


def speed(before: Time, after: Time) -> str:
    """How much faster, where the spreads of the two measurements do not touch."""
    if before.low_ms <= after.high_ms and after.low_ms <= before.high_ms:
        return "no difference in time beyond the spread"
    factor = before.median_ms / after.median_ms
    return f"{figure(factor, 2)}× faster" if factor >= 1 else f"{figure(1 / factor, 2)}× slower"


def _alike(one: Time, other: Time) -> bool:
    return (one.seconds_of_audio, one.batch, one.threads) == (
        other.seconds_of_audio,
        other.batch,
        other.threads,
    )


def _conditions(time: Time) -> str:
    parts = []
    if time.seconds_of_audio is not None:
        parts.append(f"{time.seconds_of_audio:g}\u00a0s of audio")
    if time.batch is not None and time.batch != 1:
        parts.append(f"batch {time.batch}")
    if time.threads is not None:
        parts.append(plural(time.threads, "thread"))
    return ", ".join(parts)


def _at(seconds: float | None) -> str:
    return f" at {round(seconds, 2):g}\u00a0s" if seconds else ""


def table(stages: Sequence[Stage], task: Task | None = None) -> Table:
    """Measures of each stage; a measure that no stage has is left out."""
    first = stages[0]
    times = [stage.time for stage in stages if stage.time]
    seconds = next((stage.seconds for stage in stages if stage.seconds), None)
    under = _conditions(times[0]) if times else ""
    rows = [
        ("Parameters", "of the encoder", _cells(stages, lambda s: _count(s.parameters, first.parameters))),
        (
            "Multiply-accumulates",
            f"for{_at(seconds).removeprefix(' at')} of audio" if seconds else "",
            _cells(stages, lambda s: _count(s.macs, first.macs, "MAC")),
        ),
        (
            "Time",
            f"median and spread, {under}".rstrip(", "),
            _cells(stages, lambda s: _time(s.time, first.time)),
        ),
        *(_score_row(score, stages) for score in scores_of(stages, task)),
        ("Distillation loss", "on held-out audio", _cells(stages, lambda s: _plain(s.loss))),
        ("Cosine to the teacher", "mean and lowest hidden state", _cells(stages, _cosine)),
    ]
    notes = []
    if any(not _alike(times[0], time) for time in times[1:]):
        notes.append("The times were not measured under the same conditions and cannot be compared.")
    if not first.scores and any(stage.scores for stage in stages):
        notes.append("The teacher has no score where its head was new, and no difference to it is shown.")
    return Table(
        stages=tuple(NAMES.get(stage.name, stage.name) for stage in stages),
        rows=tuple(row for row in rows if any(cell.main != "–" for cell in row[2])),
        notes=tuple(notes),
    )


def _cells(stages: Sequence[Stage], cell: Callable[[Stage], Cell]) -> tuple[Cell, ...]:
    return tuple(cell(stage) for stage in stages)


def _count(value: int | None, dense: int | None, unit: str = "") -> Cell:
    if value is None:
        return Cell(main="–")
    part = f" · {share(value / dense)}" if dense and value != dense else ""
    return Cell(main=amount(value, unit), more=exact(value) + part)


def _time(time: Time | None, dense: Time | None) -> Cell:
    if time is None:
        return Cell(main="–")
    more = f"{milliseconds(time.low_ms)} to {milliseconds(time.high_ms)}"
    if dense is not None and time is not dense and _alike(time, dense):
        more += f" · {speed(dense, time)}"
    return Cell(main=milliseconds(time.median_ms), more=more)


def _score_row(score: Score, stages: Sequence[Stage]) -> tuple[str, str, tuple[Cell, ...]]:
    """A score of every stage, with the difference to the first."""

    def cell(stage: Stage) -> Cell:
        value = stage.scores.get(score.name)
        difference = score.against(stages[0].scores.get(score.name), value) if stage is not stages[0] else ""
        return Cell(main=score.write(value), more=difference)

    return score.title, ", ".join(filter(None, ("on held-out audio", score.direction))), _cells(stages, cell)


def _plain(value: float | None) -> Cell:
    return Cell(main=figure(value, 4))


def _cosine(stage: Stage) -> Cell:
    if not stage.cosine:
        return Cell(main="–")
    return Cell(main=figure(sum(stage.cosine) / len(stage.cosine)), more=f"lowest {figure(min(stage.cosine))}")
