"""The view model: from a record to exactly what the page shows, every figure already in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from secateur.report.bench import Bench, BenchView, bench_view
from secateur.report.charts import Chart, cosines, differences
from secateur.report.costs import Stack, stacks
from secateur.report.gates import ConstraintRow, Health, RoundingView, constraint_rows, health, rounding_view
from secateur.report.record import Check, Corpus, Data, Phase, Point, Record, Verification
from secateur.report.scores import order_of, scores_of
from secateur.report.shape import Layer, convolutions, layers_of, pictures
from secateur.report.stages import NAMES, Headline, Table, headline, table
from secateur.report.trajectories import Trajectory, trajectories
from secateur.report.words import duration, figure, plural

#: How many skipped files are listed by name.
LISTED = 50


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The verification, line by line."""

    sentence: str
    checks: tuple[Check, ...]
    chart: Chart | None
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DataView:
    """What was heard and what was skipped."""

    sets: tuple[tuple[str, str, str, str], ...]  # use, name, utterances, hours and rate
    reasons: tuple[tuple[str, int], ...]
    listed: tuple[tuple[str, str], ...]
    skipped: int
    unlisted: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """The page; a section that the record does not speak of is None or empty."""

    title: str
    kind: str
    headline: Headline
    order: str  # with a task: what was learned, in which order
    stages: Table | None
    cosine: Chart | None
    shapes: tuple[Chart, ...]
    partial_heads: bool  # whether some kept head lost a part of its dimensions
    cut_before: bool  # whether the run began with a model that had lost units already
    layers: tuple[Layer, ...]
    channels: tuple[tuple[int, int, int], ...]  # layer, kept, original
    groups: tuple[tuple[int, int], ...]  # of the positional convolution, where it has the axis: kept, original
    costs: tuple[Stack, ...]
    bench: BenchView | None
    health: Health | None
    constraints: tuple[ConstraintRow, ...]
    rounding: RoundingView | None
    trajectories: tuple[Trajectory, ...]
    proof: Proof | None
    data: DataView | None
    phases: tuple[tuple[str, str, str], ...]
    recipe: str
    environment: tuple[tuple[str, str], ...]


def view(record: Record, points: Sequence[Point], bench: Bench | None = None) -> View:
    """What the page shows of a record, its metrics and what was measured afterwards."""
    layers = layers_of(record.axes)
    measured = [
        (NAMES.get(stage.name, stage.name).lower(), stage.cosine)
        for stage in record.stages
        if stage.cosine and stage.name != "dense"
    ]
    return View(
        title=record.name or record.kind,
        kind=record.kind,
        headline=headline(record),
        order=order_of(record.task) if record.task else "",
        stages=table(record.stages, record.task) if record.stages else None,
        cosine=cosines(measured, name="cosine", title="Cosine to the teacher", note="On held-out audio; 1 is the same.")
        if measured
        else None,
        shapes=tuple(pictures(record.axes)),
        partial_heads=any(head.partial for layer in layers for head in layer.each),
        cut_before=any(
            axis.kind not in ("heads", "qk", "vo", "block", "layer") and axis.before < axis.original
            for axis in record.axes
        ),
        layers=tuple(layers),
        channels=tuple((axis.layer or 0, axis.kept, axis.original) for axis in convolutions(record.axes)),
        groups=tuple((axis.kept, axis.original) for axis in record.axes if axis.kind == "groups"),
        costs=tuple(stacks(record.blocks)) if record.blocks else (),
        bench=bench_view(bench) if bench else None,
        health=health(record.gates) if record.gates else None,
        constraints=tuple(constraint_rows(record.constraints)),
        rounding=rounding_view(record.rounding) if record.rounding else None,
        trajectories=tuple(trajectories(points, scores_of(record.stages, record.task))),
        proof=_proof(record.verification) if record.verification else None,
        data=_data(record.data) if record.data else None,
        phases=tuple(_phase(phase) for phase in record.phases),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True) if record.recipe else "",
        environment=tuple(flat(record.environment)),
    )


def _proof(verification: Verification) -> Proof:
    found = verification.differences
    return Proof(
        sentence=_verdict(verification),
        checks=verification.checks,
        chart=differences(found, name="differences", title="Largest difference, masked against cut") if found else None,
        differences=tuple(figure(value, 2) for value in found),
    )


def _verdict(verification: Verification) -> str:
    """Return the outcome of the verification in a sentence."""
    if not verification.is_proven:
        return "The cut model is not proven to compute what the masked model computes: do not use this model."
    if verification.holds:
        return "The cut model computes what the masked model computes, and keeps the drop-in contract."
    return (
        "The cut model computes what the masked model computes. Lines of the drop-in contract that it does not keep "
        "are marked: mind them where the model is used."
    )


def _data(data: Data) -> DataView:
    sets = [("learning", data.train), ("held out", data.validation)]
    reasons = Counter(skip.reason.partition(":")[0] for skip in data.skipped)  # behind it, what it is in this one
    return DataView(
        sets=tuple((use, *_corpus(corpus)) for use, corpus in sets if corpus),
        reasons=tuple(reasons.most_common()),
        listed=tuple((skip.path, skip.reason) for skip in data.skipped[:LISTED]),
        skipped=len(data.skipped),
        unlisted=max(len(data.skipped) - LISTED, 0),
        notes=data.notes,
    )


def _corpus(corpus: Corpus) -> tuple[str, str, str]:
    length = f"{figure(corpus.hours)} h" if corpus.hours >= 1 else duration(3600 * corpus.hours)
    rate = f" at {corpus.sample_rate / 1000:g}\u00a0kHz" if corpus.sample_rate else ""
    return corpus.name or "–", plural(corpus.utterances, "utterance"), length + rate


def _phase(phase: Phase) -> tuple[str, str, str]:
    steps = f"{phase.steps:,}" if phase.steps is not None else "–"
    return phase.name, steps, duration(phase.seconds)


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of a table; what is empty is left out."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found.extend(flat(value, "" if name == "versions" else f"{prefix}{name} "))
        elif isinstance(value, list):
            if value:
                found.append((f"{prefix}{name}", ", ".join(map(str, value))))
        elif value is not None:
            found.append((f"{prefix}{name}", str(value)))
    return found
