"""A made-up run: WavLM Base at 80 % sparsity of its gated weights, with every part that a record can have."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from secateur.records.files import to_line, write_json

LAYERS, HEADS, WIDTH, UNITS, CHANNELS, GROUPS, GROUPS_LEFT = 12, 12, 64, 3072, 512, 16, 11
KERNELS = (10, 3, 3, 3, 3, 2, 2)
FRAMES = (3199, 1599, 799, 399, 199, 99, 49)


def shape(seed: int = 3) -> dict[str, Any]:
    """Kept units: heads by layer (None for a removed block), dimensions by head, units and channels."""
    rng = random.Random(seed)
    heads: list[dict[int, tuple[int, int]] | None] = []
    units: list[int | None] = []
    for layer in range(LAYERS):
        if layer in (8, 10):
            heads.append(None)
        else:
            alive = sorted(rng.sample(range(HEADS), rng.choice((2, 3, 4, 5, 7))))
            heads.append({head: (rng.randint(20, 64), rng.randint(24, 64)) for head in alive})
        units.append(None if layer == 9 else rng.choice((120, 310, 451, 660, 705, 1080)))
    return {"heads": heads, "units": units, "channels": [90, 161, 173, 181, 351, 155, 137]}


def axes(remaining_shape: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's axes for what is left."""
    results: list[dict[str, Any]] = []

    def add(name: str, kind: str, layer: int | None, original: int, num_kept: int, gated: bool = True) -> None:
        results.append(
            {"name": name, "kind": kind, "layer": layer, "original": original, "before": original, "kept": num_kept}
            | {"gated": gated}
        )

    for layer, kept_units in enumerate(remaining_shape["channels"]):
        add(f"feature_extractor.conv_layers.{layer}/channels", "channels", layer, CHANNELS, kept_units)
    add("encoder.pos_conv_embed.conv/groups", "groups", None, GROUPS, GROUPS_LEFT)
    for layer in range(LAYERS):
        path, alive, units = f"encoder.layers.{layer}", remaining_shape["heads"][layer], remaining_shape["units"][layer]
        add(f"{path}.attention/heads", "heads", layer, HEADS, len(alive or ()))
        for head in range(HEADS):
            wide, deep = (alive or {}).get(head, (0, 0))
            add(f"{path}.attention/head{head}.qk", "qk", layer, WIDTH, wide)
            add(f"{path}.attention/head{head}.vo", "vo", layer, WIDTH, deep)
        add(f"{path}.attention/block", "block", layer, 1, int(alive is not None))
        add(f"{path}.feed_forward/units", "units", layer, UNITS, units or 0)
        add(f"{path}.feed_forward/block", "block", layer, 1, int(units is not None))
        add(f"{path}/layer", "layer", layer, 1, 1, gated=False)
    return results


def blocks(remaining_shape: dict[str, Any] | None) -> dict[str, dict[str, int]]:
    """Parameters and MACs at one second by block; None for the dense model. Plausible rather than exact."""
    channels = remaining_shape["channels"] if remaining_shape else [CHANNELS] * 7
    results: dict[str, dict[str, int]] = {}
    for layer, (kernel, frames) in enumerate(zip(KERNELS, FRAMES, strict=True)):
        weights = kernel * channels[layer] * (channels[layer - 1] if layer else 1)
        results[f"feature_extractor.conv_layers.{layer}"] = {"parameters": weights, "macs": weights * frames}
    results["feature_projection"] = {"parameters": channels[-1] * 770 + 768, "macs": channels[-1] * 768 * 49}
    results["masked_spec_embed"] = {"parameters": 768, "macs": 0}
    groups = GROUPS_LEFT if remaining_shape else GROUPS
    results["encoder.pos_conv_embed"] = {"parameters": groups * 294960 + 128, "macs": groups * 14745600}
    results["encoder"] = {"parameters": 1536, "macs": 0}
    for layer in range(LAYERS):
        alive = remaining_shape["heads"][layer] if remaining_shape else dict.fromkeys(range(HEADS), (WIDTH, WIDTH))
        units = remaining_shape["units"][layer] if remaining_shape else UNITS
        if alive is not None:
            wide, deep = (sum(pair[side] for pair in alive.values()) for side in (0, 1))
            weights = 2 * 768 * (wide + deep)
            macs = 49 * weights + 49 * 49 * (wide + deep)
            results[f"encoder.layers.{layer}.attention"] = {"parameters": weights + 3000, "macs": macs}
        if units is not None:
            weights = 2 * 768 * units
            results[f"encoder.layers.{layer}.feed_forward"] = {
                "parameters": weights + units + 768,
                "macs": 49 * weights,
            }
        results[f"encoder.layers.{layer}"] = {"parameters": 3072, "macs": 0}
    return results


def record() -> dict[str, Any]:
    """The whole record."""
    remaining_shape = shape()
    initial, final = blocks(None), blocks(remaining_shape)
    total = {
        cost: [sum(b[cost] for b in side.values()) for side in (initial, final)] for cost in ("parameters", "macs")
    }
    rng = random.Random(1)
    dips = [1.0, *(0.985 - 0.008 * i + rng.uniform(-0.006, 0.006) for i in range(LAYERS))]
    return {
        "format": 1,
        "kind": "prune",
        "name": "wavlm-base, 80 % of the gated weights removed",
        "environment": {
            "python": "3.11.2",
            "versions": {"secateur": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "accelerate": "1.15.0"},
            "platform": "Linux x86_64",
            "cpu": "Example Processor @ 2.60 GHz",
            "cores": 2,
            "threads": 2,
            "accelerators": [],
        },
        "recipe": {
            "model": "microsoft/wavlm-base",
            "target": 0.2,
            "gates": {"kind": "hard_concrete", "axes": ["heads", "qk", "vo", "units", "block"], "temperature": 0.333},
            "constraints": [{"name": "gated", "cost": "parameters", "scope": "gated", "target": 0.2}],
            "distill": {"kind": "layer", "layers": [0, 4, 8, 12], "l1": 1.0, "cosine": 1.0},
            "learn": {"steps": 20000, "precision": "fp32"},
            "recover": {"steps": 5000},
        },
        "data": {
            "train": {"name": "librispeech train-clean-100", "utterances": 28512, "hours": 100.43},
            "validation": {"name": "librispeech dev-clean", "utterances": 2700, "hours": 5.38},
            "skipped": [
                {
                    "path": f"103/1240/103-1240-{index:04d}.flac",
                    "reason": ("too short", "silent", "not decodable")[index % 3],
                }
                for index in range(61)
            ],
        },
        "axes": axes(remaining_shape),
        "gates": gates(),
        "constraints": [
            {
                "name": "gated",
                "cost": "parameters",
                "scope": "gated",
                "target": 0.2,
                "dense": 84934656,
                "limit": 16986931.2,
                "expected": 17012345.6,
                "verdict": 17104384,
                "counted": 16985088,
                "binding": True,
                "label": "parameters of the gated weight matrices",
            },
            {
                "name": "macs",
                "cost": "macs",
                "scope": "whole",
                "target": 0.5,
                "dense": total["macs"][0],
                "limit": total["macs"][0] * 0.5,
                "expected": total["macs"][1] * 1.03,
                "verdict": total["macs"][1] * 1.01,
                "counted": total["macs"][1],
                "binding": False,
                "label": "multiply-accumulates of the whole model",
            },
        ],
        "rounding": {
            "multiples": {"channels": 32, "units": 1},
            "opened": {"channels": 61, "units": 12, "heads": 0},
            "closed": {"channels": 70, "units": 0, "heads": 1},
            "given_up": {"gated": 0.00123, "macs": -0.0004},
        },
        "verification": {
            "holds": True,
            "checks": [
                {
                    "name": "parameters are those of the selection",
                    "holds": True,
                    "detail": f"{total['parameters'][1]:,} counted, {total['parameters'][1]:,} by the selection",
                },
                {
                    "name": "cut model equals masked model",
                    "holds": True,
                    "detail": "largest relative difference 3.1e-06 over 14 outputs, allowed 1e-04",
                },
                {
                    "name": "same frame count for every length",
                    "holds": True,
                    "detail": "22 lengths from 400 to 480000 samples",
                },
                {
                    "name": "same hidden states, widths and head",
                    "holds": True,
                    "detail": "13 hidden states of width 768; output 1x24x768",
                },
                {
                    "name": "padded equals unpadded as far as the dense model's",
                    "holds": True,
                    "detail": "padding moves valid frames by 2.1e-01; in the dense model by 2.6e-01",
                },
                {
                    "name": "short audio behaves as in the dense model",
                    "holds": True,
                    "detail": "400 samples give 1 frame, one less raises; so does the dense model",
                },
                {"name": "every attention implementation", "holds": True, "detail": "eager, sdpa agree to 8.0e-07"},
                {"name": "bfloat16", "holds": True, "detail": "runs; relative error 9.3e-03"},
            ],
            "differences": [4.2e-07 * 1.19**index for index in range(LAYERS + 2)],
        },
        "stages": [
            {
                "name": "dense",
                "parameters": total["parameters"][0],
                "macs": total["macs"][0],
                "samples": 16000,
                "time": {
                    "median_ms": 861.0,
                    "low_ms": 842.5,
                    "high_ms": 905.1,
                    "seconds_of_audio": 10.0,
                    "batch": 1,
                    "threads": 2,
                },
                "loss": 0.0,
                "cosine": [1.0] * (LAYERS + 1),
            },
            {
                "name": "shrunk",
                "parameters": total["parameters"][1],
                "macs": total["macs"][1],
                "samples": 16000,
                "time": None,
                "loss": 0.4213,
                "cosine": [1.0, *(value - 0.05 - 0.01 * i for i, value in enumerate(dips[1:]))],
            },
            {
                "name": "recovered",
                "parameters": total["parameters"][1],
                "macs": total["macs"][1],
                "samples": 16000,
                "time": {
                    "median_ms": 333.0,
                    "low_ms": 321.2,
                    "high_ms": 352.9,
                    "seconds_of_audio": 10.0,
                    "batch": 1,
                    "threads": 2,
                },
                "loss": 0.2871,
                "cosine": dips,
            },
        ],
        "blocks": {"before": initial, "after": final},
        "phases": [
            {"name": "learn", "steps": 20000, "seconds": 40213.0},
            {"name": "choose", "steps": 0, "seconds": 2.3},
            {"name": "shrink", "steps": 0, "seconds": 14.9},
            {"name": "recover", "steps": 5000, "seconds": 5621.0},
        ],
    }


def gates() -> dict[str, Any]:
    """Gates that have mostly decided, in the bins of their open probability."""
    rng = random.Random(2)
    sizes = {
        "channels": (3584, 0.35),
        "groups": (16, 0.6875),
        "heads": (144, 0.3),
        "qk": (9216, 0.19),
        "vo": (9216, 0.2),
        "units": (36864, 0.18),
        "block": (24, 0.875),
    }
    kinds, histogram = {}, {}
    for kind, (total, kept_units) in sizes.items():
        interval = [int(total * 0.002 * rng.random() * (1.5 + abs(i - 9) / 6)) for i in range(1, 19)]
        opened = round((total - sum(interval)) * kept_units)
        histogram[kind] = [total - sum(interval) - opened, *interval, opened]
        kinds[kind] = {"gates": total, "open": opened + sum(interval[9:]), "undecided": sum(interval)}
    undecided = sum(kind["undecided"] for kind in kinds.values()) / sum(size for size, _ in sizes.values())
    notes = ["Closing attention block 8 took 3 open heads with it."]
    return {
        "kinds": kinds,
        "histogram": histogram,
        "undecided_share": undecided,
        "moved": 78,
        "moved_share": 0.00132,
        "notes": notes,
    }


def metrics() -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    rng, result = random.Random(4), []
    for step in range(100, 20001, 100):
        part = step / 20000
        target = 1 - 0.8 * min(part / 0.4, 1)
        lag = 0.06 * math.exp(-(((part - 0.3) / 0.2) ** 2))
        loss = 0.25 + 0.5 * math.exp(-12 * part) + 0.18 * min(part / 0.5, 1) + rng.gauss(0, 0.012)
        result.append(
            {
                "phase": "learn",
                "step": step,
                "loss": loss + 0.02 * (1 - target),
                "distill": loss,
                "kept/gated": target + lag + rng.gauss(0, 0.003),
                "target/gated": target,
                "kept/macs": 1 - 0.55 * min(part / 0.5, 1) + rng.gauss(0, 0.004),
                "target/macs": 1 - 0.5 * min(part / 0.4, 1),
                "lambda1/gated": -8 * lag,
                "lambda2/gated": 22 * (1 - math.exp(-5 * part)),
                "lambda1/macs": -0.3 * lag,
                "lambda2/macs": 6 * (1 - math.exp(-3 * part)),
                "open/heads": 1 - 0.7 * min(part / 0.5, 1),
                "open/units": 1 - 0.82 * min(part / 0.45, 1),
                "open/qk": 1 - 0.8 * min(part / 0.42, 1),
                "open/vo": 1 - 0.78 * min(part / 0.48, 1),
                "open/block": 1 - 0.12 * min(part / 0.6, 1),
                "undecided": 0.9 * math.exp(-5 * part) + 0.01,
                "learning_rate": 2e-4 * min(part / 0.1, (1 - part) / 0.9),
                "gradient_norm": 0.4 + abs(rng.gauss(0, 0.1)),
            }
        )
        if step % 2000 == 0:
            result.append(
                {"phase": "learn", "step": step, "validation": {"loss": loss + 0.02, "cosine": 0.97 - 0.08 * part}}
            )
    for step in range(50, 5001, 50):
        loss = 0.29 + 0.13 * math.exp(-step / 900) + rng.gauss(0, 0.006)
        result.append({"phase": "recover", "step": step, "loss": loss, "distill": loss})
        if step % 1000 == 0:
            result.append(
                {"phase": "recover", "step": step, "validation": {"loss": loss + 0.01, "cosine": 0.9 + step / 1e5}}
            )
    return result


SCORE_INFO = {
    "wer": {"title": "Word error rate", "direction": "lower", "is_share": True},
    "cer": {"title": "Character error rate", "direction": "lower", "is_share": True},
}


def task_record() -> dict[str, Any]:
    """The record of the same model pruned for speech recognition, fine-tuned before, with all that is learned."""
    created = record()
    created["task"] = {
        "kind": "ctc",
        "title": "Speech recognition (CTC)",
        "headline": "wer",
        "better": "lower",
        "order": "fine-tuned first, then pruned",
        "weights": {"task": 1.0, "hidden states": 1.0, "logits": 0.5},
        "score_info": dict(SCORE_INFO),
    }
    for stage, wer, cer in zip(created["stages"], (0.101, 0.187, 0.123), (0.031, 0.0622, 0.039), strict=True):
        stage["scores"] = {"cer": cer, "wer": wer}
    created["phases"].insert(0, {"name": "finetune", "steps": 3000, "seconds": 3600.0})
    return created


def task_metrics() -> list[dict[str, Any]]:
    """Its metrics: fine-tuning by the task alone, then all three parts, and scores of the held-out set."""
    results: list[dict[str, Any]] = []
    for phase, steps, start, end in (("finetune", 3000, 1.02, 0.101), ("recover", 5000, 0.187, 0.123)):
        for step in range(50, steps + 1, 50):
            part = math.exp(-4 * step / steps)
            parts = {"task": 0.2 + 2 * part}
            if phase == "recover":
                parts |= {"distill": 0.29 + 0.1 * part, "logits": 0.05 + 0.2 * part}
            results.append({"phase": phase, "step": step, "loss": sum(parts.values()), **parts})
            if step % 500 == 0:
                wer = end + (start - end) * part
                scores = {"loss": 0.25 + 2 * part, "wer": wer, "cer": 0.3 * wer}
                results.append({"phase": phase, "step": step, "validation": scores})
    return results


def sweep() -> dict[str, Any]:
    """The record of a sweep: four targets by two kinds of gates by three seeds."""
    rng, rows = random.Random(5), []
    for kind, worse in (("hard_concrete", 1.0), ("low_rank", 1.3)):
        for target in (0.8, 0.5, 0.35, 0.2):
            for seed in range(3):
                selected_items = 861.0 + rng.gauss(0, 4)
                rows.append(
                    {
                        "values": {"gates.kind": kind, "target": target, "seed": seed},
                        "folder": f"gates.kind={kind},target={target},seed={seed}",
                        "dense": {
                            "parameters": 94381936,
                            "macs": 6911374336,
                            "milliseconds": selected_items,
                            "score": 0.101,
                        },
                        "kept": {
                            "parameters": round(94381936 * target) - rng.randint(0, 400000),
                            "macs": round(6911374336 * (target * 0.9 + 0.02) * rng.uniform(0.96, 1)),
                            "milliseconds": selected_items * (0.15 + 0.8 * target) * rng.uniform(0.98, 1.02),
                            "score": 0.101 + worse * 0.012 / target**1.2 - 0.012 + rng.gauss(0, 0.002),
                        },
                    }
                )
    return {
        "format": 1,
        "kind": "sweep",
        "name": "wavlm-base for recognition, size against error",
        "fields": ["gates.kind", "target", "seed"],
        "headline": "wer",
        "better": "lower",
        "score_info": dict(SCORE_INFO),
        "environment": record()["environment"],
        "samples": 16000,
        "rows": rows,
    }


def write(
    folder: Path,
    data: dict[str, Any] | None = None,
    *,
    lines: bool = True,
    entries: list[dict[str, Any]] | None = None,
) -> Path:
    """Write the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "record.json", data if data is not None else record())
    if lines:
        metric_lines = [to_line(json.loads(json.dumps(entry))) for entry in (metrics() if entries is None else entries)]
        (folder / "metrics.jsonl").write_text("".join(metric_lines), encoding="utf-8")
    return folder


def bench() -> dict[str, Any]:
    """What `secateur bench` left: the dense and the cut model in both forms, at two batch sizes."""
    blocks = ("front end", "projection", "positional conv", "attention", "feed-forward", "rest")
    shares = {"dense": (0.31, 0.01, 0.05, 0.28, 0.34, 0.01), "cut": (0.2, 0.02, 0.2, 0.35, 0.2, 0.03)}
    rows = []
    for batch in (1, 4):
        for name, base in (("dense", 480.0), ("cut", 90.0)):
            for form, part in (("as it is", 1.0), ("for_inference", 0.75)):
                median = base * part * batch
                rows.append(
                    {
                        "model": f"runs/example/{name}",
                        "name": f"example/{name}",
                        "form": form,
                        "weights": "loaded" if name == "cut" else "random",
                        "seconds": 10.0,
                        "batch": batch,
                        "dtype": "fp32",
                        "threads": 2,
                        "median_ms": median,
                        "low_ms": 0.97 * median,
                        "high_ms": 1.08 * median,
                        "repeats": 9,
                        "real_time_factor": median / 1e4,
                        "throughput": batch * 1e4 / median,
                        "ratio": 480.0 * batch / median,
                        "peak_mib": base + 100.0 * batch,
                        "blocks_ms": {
                            block: 1.01 * median * value for block, value in zip(blocks, shares[name], strict=True)
                        },
                    }
                )
    environment = {"cpu": "Example Processor @ 2.60 GHz", "float32_products": "medium", "malloc": {"X": "1"}}
    return {"format": 1, "kind": "bench", "rows": rows, "environment": environment, "config": {"repeats": 9}}
