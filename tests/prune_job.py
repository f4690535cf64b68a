"""A whole `prune` of a tiny model, for processes that are killed; also a script."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 6


def recipe(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe for the teacher and the recordings in a folder: all phases, a few steps each."""
    return {
        "model": str(root / "teacher"),
        "out": str(out),
        "data": {"kind": "folder", "path": str(root / "speech")},
        "validation": {"seconds": 0.5},
        "batching": {"seconds": 1.2, "longest": 0.4, "shortest": 0.1},
        "gates": {
            kind: {"drop_rate": 0.4, "spread": 1.0, "straight_through": True}
            for kind in ("channels", "groups", "qk", "vo", "units")
        }
        | {"heads": None},
        "target": 0.6,
        "distill": {"pairing": {"kind": "learned", "layers": [1, 3]}},
        "learn": {"steps": STEPS, "log_every": 1, "validate_every": 4, "save_every": 2},
        "recover": {"steps": STEPS, "log_every": 1, "validate_every": 4, "save_every": 2},
    } | changes


def with_ranks(fields: dict[str, Any]) -> dict[str, Any]:
    """The same, two linear maps of each layer factorised."""
    gates = fields["gates"] | {"rank": fields["gates"]["units"]}
    return fields | {"factorise": {"linears": ["q_proj", "output_dense"]}, "gates": gates}


def kill_before_call(owner: Any, name: str, count: int) -> None:
    """Make this process kill itself instead of the given call of a function."""
    original, remaining = getattr(owner, name), [count]

    def wrapper(*arguments: Any, **kwargs: Any) -> Any:
        remaining[0] -= 1
        if remaining[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **kwargs)

    setattr(owner, name, wrapper)


def kill_points() -> dict[str, Callable[[int], None]]:
    """Where a process can be made to kill itself, at the n-th time that it comes there."""
    import shutil

    from secateur.compress import phases
    from secateur.compress.step import DistillUnit, PruneUnit
    from secateur.engine import checkpoint
    from secateur.records import section
    from secateur.records.run import RunRecord

    return {
        "learn step": lambda count: kill_before_call(PruneUnit, "end", count),
        "recover step": lambda count: kill_before_call(DistillUnit, "end", count),
        "save": lambda count: kill_before_call(checkpoint, "save_file", count),
        "rename": lambda count: kill_before_call(checkpoint, "_sync", count),
        "removal": lambda count: kill_before_call(shutil, "rmtree", count),
        "learned": lambda count: kill_before_call(phases, "save_file", count),
        "json": lambda count: kill_before_call(section, "write_json", count),
        "model": lambda count: kill_before_call(phases, "write_run_model", count),
        "verify": lambda count: kill_before_call(phases, "verify", count),
        "record": lambda count: kill_before_call(RunRecord, "write", count),
    }


def job(root: str, out: str, kill: tuple[str, int] | None = None, changes: dict[str, Any] | None = None) -> None:
    """Prune, or go on pruning."""
    import torch

    from secateur.pipeline import prune

    torch.set_num_threads(1)
    if kill is not None:
        kill_points()[kill[0]](kill[1])
    prune(with_ranks(recipe(Path(root), Path(out), **(changes or {}))), resume=True)


def keep_gradients(folder: Path) -> None:
    """Patch the learn step to write the gradients that reach the optimizers to a file for each rank and step."""
    from pruning_toy import gradients
    from safetensors.torch import save_file

    from secateur.compress.step import PruneUnit

    original = PruneUnit.end

    def wrapper(self: Any, step: int, reduce: Any) -> Any:
        metric_values = original(self, step, reduce)
        save_file(gradients(self), folder / f"gradients-{step}-{os.environ.get('RANK', '0')}.safetensors")
        return metric_values

    PruneUnit.end = wrapper  # type: ignore[method-assign]


if __name__ == "__main__":
    keep_gradients(Path(sys.argv[2]).parent)
    job(sys.argv[1], sys.argv[2], None, json.loads(sys.argv[3]))
