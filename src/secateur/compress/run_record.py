"""The record of a pruning run, made from the files of the phases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.compress.config import FromGates
from secateur.compress.phase_files import gate_scores, read_result
from secateur.compress.run_context import RunContext
from secateur.cost import breakdown
from secateur.cost.breakdown import Breakdown
from secateur.cost.latency_table import LatencyTable
from secateur.data.corpus import Corpus
from secateur.gates import UNDECIDED_BOUNDS
from secateur.records.files import environment, plain
from secateur.structure import Selection, Structure

FORMAT = 1
HISTOGRAM_BINS = 20


def record_of_run(context: RunContext, folder: Path) -> dict[str, Any]:
    """Return the record of a finished run, the source of the report."""
    config, structure = context.config, context.structure
    selection = Selection.load(folder / "selection.json")
    choice, stages = read_result(folder, "choice.json"), read_result(folder, "stages.json")
    learn_result = read_result(folder, "learned/learned.json")
    sample_rate = context.train.sample_rate
    samples = round(config.targeted_constraints[0].audio_seconds * sample_rate)
    dense_breakdown = breakdown(context.teacher_view.structure, samples=samples, table=context.table)
    pruned_breakdown = breakdown(structure, samples=samples, selection=selection, table=context.table)
    for stage in stages.get("stages", []):
        stage["macs"] = (dense_breakdown if stage["name"] == "dense" else pruned_breakdown).macs
        stage["samples"], stage["sample_rate"] = samples, sample_rate
    phase_results = {
        "finetune": read_result(folder, "finetuned/finetuned.json"),
        "learn": learn_result,
        "recover": stages,
    }
    phases = [
        {"name": name, "steps": result["steps"], "seconds": result["seconds"]}
        for name, result in phase_results.items()
        if "steps" in result
    ]
    return {
        "format": FORMAT,
        "kind": "prune",
        "name": config.name,
        "environment": environment(),
        "recipe": plain(config),
        "data": {
            "train": _corpus_record(context.train),
            "validation": _corpus_record(context.held_out),
            "skipped": plain(list(dict.fromkeys([*context.train.skipped, *context.held_out.skipped]))),
            "notes": [*context.notes, *context.feed.batches.length_warnings, *stages.get("left_out", ())],
        },
        "task": _task_record(context),
        "axes": _axis_records(context, selection),
        "gates": _gate_record(context, folder, choice, learn_result) if isinstance(config.choose, FromGates) else {},
        "constraints": _constraint_records(context, choice, learn_result),
        "latency": _latency_record(context.table, dense_breakdown, pruned_breakdown) if context.table else {},
        "rounding": choice.get("rounding") or {},
        "verification": read_result(folder, "verified.json"),
        "stages": stages.get("stages", []),
        "blocks": {"before": dense_breakdown.blocks, "after": pruned_breakdown.blocks},
        "phases": phases,
    }


def _task_record(context: RunContext) -> dict[str, Any]:
    """Return the task with the weights of the losses and the order of phases, or an empty record without a task."""
    config, task = context.config, context.task
    if task is None or config.task is None:
        return {}
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
    return {
        "kind": config.task.kind,
        "title": task.title,
        "headline": task.primary_metric,
        "better": task.scores[task.primary_metric].direction,
        "score_info": plain(dict(task.scores)),
        "order": order,
        "weights": {name: weight for name, weight in weights.items() if weight},
    }


def _corpus_record(corpus: Corpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "utterances": len(corpus),
        "hours": corpus.seconds / 3600,
        "sample_rate": corpus.sample_rate,
    }


def _axis_records(context: RunContext, selection: Selection) -> list[dict[str, Any]]:
    kinds = context.config.pruned_kinds
    return [
        {
            "name": name,
            "kind": axis.kind,
            "layer": int(match.group(1)) if (match := re.search(r"layers\.(\d+)", name)) else None,
            "original": axis.original,
            "before": axis.size,
            "kept": len(selection.axes.get(name, axis.units)),
            "gated": axis.kind in kinds,
        }
        for name, axis in context.structure.axes.items()
    ]


def _gate_record(
    context: RunContext, folder: Path, choice: dict[str, Any], learn_result: dict[str, Any]
) -> dict[str, Any]:
    scores, _ = gate_scores(context.structure, folder / "learned")
    kinds, histogram = {}, {}
    undecided = total = 0
    for kind in context.config.gate_configs:
        probability = torch.sigmoid(_values_of_kind(context.structure, scores, kind))
        undecided_count = int(((probability > UNDECIDED_BOUNDS[0]) & (probability < UNDECIDED_BOUNDS[1])).sum())
        kinds[kind] = {
            "gates": len(probability),
            "open": int((probability > 0.5).sum()),
            "undecided": undecided_count,
        }
        histogram[kind] = torch.histc(probability.float(), bins=HISTOGRAM_BINS, min=0, max=1).int().tolist()
        undecided, total = undecided + undecided_count, total + len(probability)
    return {
        "kinds": kinds,
        "histogram": histogram,
        "undecided_share": undecided / max(1, total),
        "moved": choice["moved"],
        "moved_share": choice["moved"] / max(1, choice["gated"]),
        "notes": choice["notes"],
    } | ({"freezing": learn_result["freezing"]} if "freezing" in learn_result else {})


def _values_of_kind(structure: Structure, values: Tensor, kind: str) -> Tensor:
    parts = [
        values[structure.offsets[a.name] : structure.offsets[a.name] + a.size] for a in structure.axes_of_kinds((kind,))
    ]
    return torch.cat(parts) if parts else values[:0]


def _latency_record(table: LatencyTable, dense_breakdown: Breakdown, pruned_breakdown: Breakdown) -> dict[str, Any]:
    """Return the predicted latency, with the table of measured times and the machine."""
    return {
        "table": table.identity,
        "conditions": plain(table.conditions),
        "machine": {name: table.decides.get(name) for name in ("cpu", "cores", "platform", "versions")},
        "agreement": plain(table.agreement),
        "dense_ms": dense_breakdown.latency,
        "kept_ms": pruned_breakdown.latency,
    }


def _constraint_records(
    context: RunContext, choice: dict[str, Any], learn_result: dict[str, Any]
) -> list[dict[str, Any]]:
    records = []
    for cost_target in context.cost_targets:
        constraint, name = cost_target.constraint, cost_target.constraint.name
        records.append(
            {
                "name": name,
                "cost": constraint.cost,
                "scope": constraint.scope,
                "unit": cost_target.cost.unit,
                "target": cost_target.share,
                "dense": cost_target.cost.dense,
                "limit": cost_target.share * cost_target.cost.dense,
                "expected": learn_result.get("expected", {}).get(name),
                "verdict": choice["verdict"][name],
                "counted": choice["counted"][name],
                "binding": choice["binding"] == name,
                "label": cost_target.cost.label,
            }
        )
    return records
