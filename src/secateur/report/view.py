"""View of a run: the content of the report, with all numbers formatted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from secateur.records.bench_record import BenchRecord
from secateur.records.metrics import MetricsPoint
from secateur.records.run import CorpusRecord, DataRecord, PhaseRecord, RunRecord
from secateur.records.verification import Verification, VerificationCheck
from secateur.report.bench_section import BenchView, build_bench_view
from secateur.report.charts import Chart, cosine_chart, difference_chart
from secateur.report.costs import CostStack, build_stacks
from secateur.report.formatting import format_count, format_duration, format_number
from secateur.report.gates import (
    ConstraintRow,
    GateHealth,
    RoundingView,
    build_constraint_rows,
    build_gate_health,
    build_rounding_view,
)
from secateur.report.kept_units import LayerView, build_layers, conv_channel_axes, shape_charts
from secateur.report.stages import STAGE_LABELS, RunSummary, StageTable, build_stage_table, build_summary
from secateur.report.task_scores import describe_task, list_scores
from secateur.report.trajectories import PhaseTrajectory, build_trajectories

#: Maximum number of skipped files that are listed by name.
MAX_LISTED_FILES = 50


@dataclass(frozen=True, kw_only=True)
class ProofView:
    """Section on the verification: sentence, checks, and differences of the hidden states."""

    sentence: str
    checks: tuple[VerificationCheck, ...]
    chart: Chart | None
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DataView:
    """Section on the data: recordings and skipped files."""

    sets: tuple[tuple[str, str, str, str], ...]  # use, name, utterances, hours and rate
    reasons: tuple[tuple[str, int], ...]
    listed_files: tuple[tuple[str, str], ...]
    skipped_count: int
    unlisted_count: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReportView:
    """Content of the report; a section without data in the record is `None` or empty."""

    title: str
    kind: str
    summary: RunSummary
    task_summary: str  # task, order of the phases and parts of the loss; empty without a task
    stages: StageTable | None
    cosine: Chart | None
    shapes: tuple[Chart, ...]
    has_partial_heads: bool  # whether a kept head has lost dimensions
    had_removed_units: bool  # whether the run started from a pruned model
    layers: tuple[LayerView, ...]
    channels: tuple[tuple[int, int, int], ...]  # layer, kept, original
    groups: tuple[tuple[int, int], ...]  # of the positional convolution: kept, original
    costs: tuple[CostStack, ...]
    bench: BenchView | None
    gate_health: GateHealth | None
    constraints: tuple[ConstraintRow, ...]
    rounding: RoundingView | None
    trajectories: tuple[PhaseTrajectory, ...]
    proof: ProofView | None
    data: DataView | None
    phases: tuple[tuple[str, str, str], ...]
    recipe: str
    environment: tuple[tuple[str, str], ...]


def build_view(record: RunRecord, points: Sequence[MetricsPoint], bench: BenchRecord | None = None) -> ReportView:
    """Build the view of a run from the record, the metrics and the benchmark."""
    layers = build_layers(record.axes)
    stage_cosines = [
        (STAGE_LABELS.get(stage.name, stage.name).lower(), stage.cosine)
        for stage in record.stages
        if stage.cosine and stage.name != "dense"
    ]
    return ReportView(
        title=record.name or record.kind,
        kind=record.kind,
        summary=build_summary(record),
        task_summary=describe_task(record.task) if record.task else "",
        stages=build_stage_table(record.stages, record.task) if record.stages else None,
        cosine=cosine_chart(
            stage_cosines, name="cosine", title="Cosine to the teacher", note="On held-out audio; 1 is identical."
        )
        if stage_cosines
        else None,
        shapes=tuple(shape_charts(record.axes)),
        has_partial_heads=any(head.is_partial for layer in layers for head in layer.heads),
        had_removed_units=any(
            axis.kind not in ("heads", "qk", "vo", "block", "layer") and axis.before < axis.original
            for axis in record.axes
        ),
        layers=tuple(layers),
        channels=tuple((axis.layer or 0, axis.kept, axis.original) for axis in conv_channel_axes(record.axes)),
        groups=tuple((axis.kept, axis.original) for axis in record.axes if axis.kind == "groups"),
        costs=tuple(build_stacks(record.blocks)) if record.blocks else (),
        bench=build_bench_view(bench) if bench else None,
        gate_health=build_gate_health(record.gates) if record.gates else None,
        constraints=tuple(build_constraint_rows(record.constraints)),
        rounding=build_rounding_view(record.rounding) if record.rounding else None,
        trajectories=tuple(build_trajectories(points, list_scores(record.stages, record.task))),
        proof=_proof_view(record.verification) if record.verification else None,
        data=_data_view(record.data) if record.data else None,
        phases=tuple(_phase_cells(phase) for phase in record.phases),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True) if record.recipe else "",
        environment=tuple(flatten_rows(record.environment.to_dict())),
    )


def _proof_view(verification: Verification) -> ProofView:
    max_differences = verification.differences
    return ProofView(
        sentence=_proof_sentence(verification),
        checks=verification.checks,
        chart=difference_chart(max_differences, name="differences", title="Largest difference, masked against cut")
        if max_differences
        else None,
        differences=tuple(format_number(value, 2) for value in max_differences),
    )


def _proof_sentence(verification: Verification) -> str:
    """Return the outcome of the verification in a sentence."""
    if not verification.is_proven:
        return "The cut model is not proven to compute what the masked model computes: do not use this model."
    if verification.holds:
        return "The cut model computes what the masked model computes and fulfills the drop-in contract."
    return (
        "The cut model computes what the masked model computes. Checks of the drop-in contract that fail "
        "are marked: consider them before you replace the dense model."
    )


def _data_view(data: DataRecord) -> DataView:
    sets = [("training", data.train), ("held out", data.validation)]
    # The part behind a colon is about the single file: "too short: 0.1 s" counts as "too short".
    reasons = Counter(skip.reason.partition(":")[0] for skip in data.skipped)
    return DataView(
        sets=tuple((use, *_corpus_cells(corpus)) for use, corpus in sets if corpus),
        reasons=tuple(reasons.most_common()),
        listed_files=tuple((skip.path, skip.reason) for skip in data.skipped[:MAX_LISTED_FILES]),
        skipped_count=len(data.skipped),
        unlisted_count=max(len(data.skipped) - MAX_LISTED_FILES, 0),
        notes=data.notes,
    )


def _corpus_cells(corpus: CorpusRecord) -> tuple[str, str, str]:
    # "960 h", but "42 min 10 s" below an hour.
    length = f"{format_number(corpus.hours)} h" if corpus.hours >= 1 else format_duration(3600 * corpus.hours)
    rate = f" at {corpus.sample_rate / 1000:g}\u00a0kHz" if corpus.sample_rate else ""
    return corpus.name or "–", format_count(corpus.utterances, "utterance"), length + rate


def _phase_cells(phase: PhaseRecord) -> tuple[str, str, str]:
    steps = f"{phase.steps:,}" if phase.steps is not None else "–"
    return phase.name, steps, format_duration(phase.seconds)


def flatten_rows(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows of a table without empty values: ``{"a": {"b": 1}}`` gives ``("a b", "1")``."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            # Packages appear without the prefix: "torch", not "versions torch".
            rows.extend(flatten_rows(value, "" if name == "versions" else f"{prefix}{name} "))
        elif isinstance(value, list):
            if value:
                rows.append((f"{prefix}{name}", ", ".join(map(str, value))))
        elif value is not None:
            rows.append((f"{prefix}{name}", str(value)))
    return rows
