"""The record of a pruning run, put together from what its phases left behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.arch import declare
from secateur.compress.config import FromGates
from secateur.compress.run import gate_scores, results
from secateur.compress.setting import Setting
from secateur.cost import breakdown
from secateur.cost.report import Breakdown
from secateur.cost.table import Table
from secateur.data.corpus import Corpus
from secateur.gates.set import UNDECIDED
from secateur.records import environment, plain
from secateur.structure import Selection, Structure

FORMAT = 1
BINS = 20


def record_of_run(setting: Setting, folder: Path) -> dict[str, Any]:
    """Everything that the report shows of a finished run."""
    config, structure = setting.config, setting.structure
    selection = Selection.load(folder / "selection.json")
    choice, stages = results(folder, "choice.json"), results(folder, "stages.json")
    learned = results(folder, "learned/learned.json")
    sample_rate = setting.train.sample_rate
    samples = round(config.limits[0].length * sample_rate)
    before = breakdown(declare(setting.teacher.config), samples=samples, table=setting.table)
    after = breakdown(structure, samples=samples, selection=selection, table=setting.table)
    for stage in stages.get("stages", []):
        stage["macs"] = (before if stage["name"] == "dense" else after).macs
        stage["samples"], stage["sample_rate"] = samples, sample_rate
    left = {"finetune": results(folder, "finetuned/finetuned.json"), "learn": learned, "recover": stages}
    phases = [
        {"name": name, "steps": result["steps"], "seconds": result["seconds"]}
        for name, result in left.items()
        if "steps" in result
    ]
    return {
        "format": FORMAT,
        "kind": "prune",
        "name": config.name,
        "environment": environment(),
        "recipe": plain(config),
        "data": {
            "train": _audio(setting.train),
            "validation": _audio(setting.held),
            "skipped": plain(list(dict.fromkeys([*setting.train.skipped, *setting.held.skipped]))),
            "notes": [*setting.notes, *setting.feed.batches.notes, *stages.get("left_out", ())],
        },
        "task": _task(setting),
        "axes": _axes(setting, selection),
        "gates": _gates(setting, folder, choice, learned) if isinstance(config.choose, FromGates) else {},
        "constraints": _constraints(setting, choice, learned),
        "latency": _latency(setting.table, before, after) if setting.table else {},
        "rounding": choice.get("rounding") or {},
        "verification": results(folder, "verified.json"),
        "stages": stages.get("stages", []),
        "blocks": {"before": before.blocks, "after": after.blocks},
        "phases": phases,
    }


def _task(setting: Setting) -> dict[str, Any]:
    """What was learned beside or instead of imitating the teacher, and in which order; empty when nothing was."""
    config, task = setting.config, setting.task
    if task is None or config.task is None:
        return {}
    distill = config.distill
    weights = {
        "task": config.task_weight,
        "hidden states": distill.weight if distill else 0.0,
        "logits": distill.logits_weight if distill and distill.logits else 0.0,
    }
    if not task.ending:
        order = "pruned without labels"
    elif config.finetune is not None:
        order = "fine-tuned first, then pruned"
    else:
        order = "pruned while it was fine-tuned" if setting.new_head else "pruned as it came, fine-tuned"
    return {
        "kind": config.task.kind,
        "headline": task.headline,
        "better": task.better,
        "order": order,
        "weights": {name: weight for name, weight in weights.items() if weight},
    }


def _audio(corpus: Corpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "utterances": len(corpus),
        "hours": corpus.seconds / 3600,
        "sample_rate": corpus.sample_rate,
    }


def _axes(setting: Setting, selection: Selection) -> list[dict[str, Any]]:
    kinds = setting.config.pruned
    return [
        {
            "name": name,
            "kind": axis.kind,
            "layer": int(found.group(1)) if (found := re.search(r"layers\.(\d+)", name)) else None,
            "original": axis.original,
            "before": axis.size,
            "kept": len(selection.axes.get(name, axis.units)),
            "gated": axis.kind in kinds,
        }
        for name, axis in setting.structure.axes.items()
    ]


def _gates(setting: Setting, folder: Path, choice: dict[str, Any], learned: dict[str, Any]) -> dict[str, Any]:
    scores, _ = gate_scores(setting.structure, folder / "learned")
    kinds, histogram = {}, {}
    undecided = total = 0
    for kind in setting.config.gated:
        probability = torch.sigmoid(_of_kind(setting.structure, scores, kind))
        between = int(((probability > UNDECIDED[0]) & (probability < UNDECIDED[1])).sum())
        kinds[kind] = {
            "gates": len(probability),
            "open": int((probability > 0.5).sum()),
            "undecided": between,
        }
        histogram[kind] = torch.histc(probability.float(), bins=BINS, min=0, max=1).int().tolist()
        undecided, total = undecided + between, total + len(probability)
    return {
        "kinds": kinds,
        "histogram": histogram,
        "undecided_share": undecided / max(1, total),
        "moved": choice["moved"],
        "moved_share": choice["moved"] / max(1, choice["gated"]),
        "notes": choice["notes"],
    } | ({"freezing": learned["freezing"]} if "freezing" in learned else {})


def _of_kind(structure: Structure, values: Tensor, kind: str) -> Tensor:
    parts = [
        values[structure.offsets[a.name] : structure.offsets[a.name] + a.size] for a in structure.of_kinds((kind,))
    ]
    return torch.cat(parts) if parts else values[:0]


def _latency(table: Table, before: Breakdown, after: Breakdown) -> dict[str, Any]:
    """What was predicted, by which table, for which machine."""
    return {
        "table": table.identity,
        "conditions": plain(table.conditions),
        "machine": {name: table.decides.get(name) for name in ("cpu", "cores", "platform", "versions")},
        "agreement": plain(table.agreement),
        "dense_ms": before.latency,
        "kept_ms": after.latency,
    }


def _constraints(setting: Setting, choice: dict[str, Any], learned: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for bound in setting.bounds:
        constraint, name = bound.constraint, bound.constraint.name
        out.append(
            {
                "name": name,
                "cost": constraint.cost,
                "scope": constraint.scope,
                "unit": bound.cost.unit,
                "target": bound.share,
                "dense": bound.cost.dense,
                "limit": bound.share * bound.cost.dense,
                "expected": learned.get("expected", {}).get(name),
                "verdict": choice["verdict"][name],
                "counted": choice["counted"][name],
                "binding": choice["binding"] == name,
                "label": bound.cost.label,
            }
        )
    return out
