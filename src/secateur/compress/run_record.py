"""The record of a pruning run, made from the files of the phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from secateur.compress.config import FromGates
from secateur.compress.phase_files import gate_scores, read_result
from secateur.compress.run_context import RunContext
from secateur.cost import breakdown
from secateur.cost.latency_table import LatencyTable
from secateur.data.corpus import Corpus
from secateur.gates import UNDECIDED_BOUNDS
from secateur.records.block_part import REST
from secateur.records.choice import ChoiceRecord
from secateur.records.cost_record import BlockCosts, Breakdown, LatencyRecord
from secateur.records.environment import Environment
from secateur.records.files import plain
from secateur.records.phase_record import LearnResult, RecoverResult, TrainingResult
from secateur.records.run import (
    AxisRecord,
    ConstraintRecord,
    CorpusRecord,
    DataRecord,
    GateCounts,
    GatesRecord,
    RunRecord,
    SkippedFile,
    TaskRecord,
)
from secateur.records.verification import Verification
from secateur.structure import Selection, Structure

#: Bins of the open probability from 0 to 1.
HISTOGRAM_BINS = 20  # each covers 0.05


def record_of_run(context: RunContext, folder: Path) -> RunRecord:
    """Return the record of a finished run, the source of the report."""
    config, structure = context.config, context.structure
    selection = Selection.load(folder / "selection.json")
    choice = read_result(folder / "choice.json", ChoiceRecord)
    finetune_result = read_result(folder / "finetuned" / "finetuned.json", TrainingResult)
    learn_result = read_result(folder / "learned" / "learned.json", LearnResult)
    recover_result = read_result(folder / "stages.json", RecoverResult)
    sample_rate = context.train.sample_rate
    # MACs grow with the audio length; the report states MACs for the audio of the first constraint.
    samples = round(config.targeted_constraints[0].audio_seconds * sample_rate)
    dense_breakdown = breakdown(context.teacher_view.structure, samples=samples, table=context.table)
    pruned_breakdown = breakdown(structure, samples=samples, selection=selection, table=context.table)
    stages = []
    for stage in recover_result.stages:
        macs = (dense_breakdown if stage.name == "dense" else pruned_breakdown).macs
        stages.append(replace(stage, macs=macs, samples=samples, sample_rate=sample_rate))
    phase_results = {"finetune": finetune_result, "learn": learn_result, "recover": recover_result}
    skipped_files = dict.fromkeys([*context.train.skipped, *context.held_out.skipped])  # no repeats, in order
    return RunRecord(
        kind="prune",
        name=config.name,
        environment=Environment.current(),
        recipe=plain(config),
        data=DataRecord(
            train=_corpus_record(context.train),
            validation=_corpus_record(context.held_out),
            skipped=tuple(SkippedFile(path=skip.path, reason=skip.reason) for skip in skipped_files),
            notes=(*context.notes, *context.feed.batches.length_warnings, *recover_result.left_out),
        ),
        task=_task_record(context),
        axes=_axis_records(context, selection),
        gates=_gates_record(context, folder, choice, learn_result) if isinstance(config.choose, FromGates) else None,
        constraints=_constraint_records(context, choice, learn_result),
        latency=_latency_record(context.table, dense_breakdown, pruned_breakdown) if context.table else None,
        rounding=choice.rounding,
        verification=Verification.read(folder / "verified.json"),
        stages=tuple(stages),
        blocks=BlockCosts(before=dense_breakdown.blocks, after=pruned_breakdown.blocks),
        phases=tuple(result.to_phase(name) for name, result in phase_results.items() if result.steps is not None),
    )


def _task_record(context: RunContext) -> TaskRecord | None:
    """Return the task with the order of the work and the weights of the loss; None for a run without a task."""
    config, task = context.config, context.task
    if task is None or config.task is None:
        return None
    distill = config.distill
    weights = {
        "task": config.task_weight,
        "hidden states": distill.weight if distill else 0.0,
        "logits": distill.logits_weight if distill and distill.logits else 0.0,
    }
    if not task.head_class:
        order = "pruned without labels"
    elif config.finetune is not None:
        order = "fine-tuned first, then pruned"
    else:
        order = "pruned while it was fine-tuned" if context.has_new_head else "pruned as it came, fine-tuned"
    return TaskRecord(
        kind=config.task.kind,
        title=task.title,
        headline=task.primary_metric,
        better=task.scores[task.primary_metric].direction,
        score_info=dict(task.scores),
        order=order,
        weights={name: weight for name, weight in weights.items() if weight},
    )


def _corpus_record(corpus: Corpus) -> CorpusRecord:
    return CorpusRecord(
        name=corpus.name, utterances=len(corpus), hours=corpus.seconds / 3600, sample_rate=corpus.sample_rate
    )


def _axis_records(context: RunContext, selection: Selection) -> tuple[AxisRecord, ...]:
    gated_kinds = context.config.pruned_kinds
    records = []
    for name, axis in context.structure.axes.items():
        block = context.structure.block_of(axis.path)
        records.append(
            AxisRecord(
                name=name,
                kind=axis.kind,
                layer=block.layer if block else None,
                original=axis.original,
                before=axis.size,
                kept=len(selection.axes.get(name, axis.units)),
                gated=axis.kind in gated_kinds,
                part=block.part if block else REST,
            )
        )
    return tuple(records)


def _gates_record(context: RunContext, folder: Path, choice: ChoiceRecord, learn_result: LearnResult) -> GatesRecord:
    scores, _ = gate_scores(context.structure, folder / "learned")
    kinds: dict[str, GateCounts] = {}
    histogram: dict[str, tuple[int, ...]] = {}
    for kind in context.config.gate_configs:
        # (units,) -> (gates of the kind,)
        probability = torch.sigmoid(_values_of_kind(context.structure, scores, kind))
        is_undecided = (probability > UNDECIDED_BOUNDS[0]) & (probability < UNDECIDED_BOUNDS[1])
        kinds[kind] = GateCounts(
            gates=len(probability), open=int((probability > 0.5).sum()), undecided=int(is_undecided.sum())
        )
        histogram[kind] = tuple(torch.histc(probability.float(), bins=HISTOGRAM_BINS, min=0, max=1).int().tolist())
    gate_count = sum(counts.gates for counts in kinds.values())
    return GatesRecord(
        kinds=kinds,
        histogram=histogram,
        undecided_share=sum(counts.undecided for counts in kinds.values()) / max(1, gate_count),
        moved=choice.moved,
        moved_share=choice.moved / max(1, choice.gated),
        notes=choice.notes,
        freezing=learn_result.freezing,
    )


def _values_of_kind(structure: Structure, values: Tensor, kind: str) -> Tensor:
    parts = [
        values[structure.offsets[a.name] : structure.offsets[a.name] + a.size] for a in structure.axes_of_kinds((kind,))
    ]
    return torch.cat(parts) if parts else values[:0]  # (0,) without axes of the kind


def _latency_record(table: LatencyTable, dense_breakdown: Breakdown, pruned_breakdown: Breakdown) -> LatencyRecord:
    """Return the predicted latency, with the table of measured times and the machine."""
    return LatencyRecord(
        table=table.identity,
        conditions=plain(table.conditions),
        machine={name: table.decides.get(name) for name in ("cpu", "cores", "platform", "versions")},
        agreement=plain(table.agreement),
        dense_ms=dense_breakdown.latency,
        kept_ms=pruned_breakdown.latency,
    )


def _constraint_records(
    context: RunContext, choice: ChoiceRecord, learn_result: LearnResult
) -> tuple[ConstraintRecord, ...]:
    records = []
    for cost_target in context.cost_targets:
        constraint, name = cost_target.constraint, cost_target.constraint.name
        records.append(
            ConstraintRecord(
                name=name,
                cost=constraint.cost,
                scope=constraint.scope,
                unit=cost_target.cost.unit,
                target=cost_target.share,
                dense=cost_target.cost.dense,
                limit=cost_target.share * cost_target.cost.dense,
                expected=learn_result.expected.get(name),
                verdict=choice.verdict[name],
                counted=choice.counted[name],
                binding=choice.binding == name,
                label=cost_target.cost.label,
            )
        )
    return tuple(records)
