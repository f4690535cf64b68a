"""What gates cost: a learning step with gates on every kind of axis beside the same distillation step without.

WavLM Base with random weights, random audio, the settings that `secateur prune` gives its process. Times are medians of
steps taken in turn in one process; peak memory is that of a process for each case, above what it held before.

    python benchmarks/learning_step.py --out benchmarks/results/learning_step.json
    python benchmarks/learning_step.py --seconds 2 --out benchmarks/results/learning_step_2s.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from secateur.benchmarking.process_settings import MALLOC_SETTINGS
from secateur.hf.model_view import ModelView

KINDS = ("channels", "heads", "qk", "vo", "units", "block")
CASES: dict[str, dict[str, Any]] = {
    "without gates": {"gates": False},
    "with gates": {"gates": True},
    "with gates, gradient checkpointing": {"gates": True, "gradient_checkpointing": True},
    "without gates, bf16": {"gates": False, "precision": "bf16"},
    "with gates, bf16": {"gates": True, "precision": "bf16"},
}
REFERENCE = {name: "without gates, bf16" if "bf16" in name else "without gates" for name in CASES}
LEAST = 0.3  # share of every kind that is open in every step, and share that is closed


class Feed:
    """The same random audio in every step."""

    def __init__(self, batch: int, seconds: float) -> None:
        import torch
        from transformers import WavLMConfig

        from secateur.compress.audio_batches import MicroBatch
        from secateur.data.collate import AudioBatch
        from secateur.hf.declare import declare

        samples = round(16_000 * seconds)
        values = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
        audio = AudioBatch(values=values, lengths=torch.tensor([samples] * batch), ids=("noise",) * batch, mask=None)
        frames = batch * declare(WavLMConfig()).lengths(samples)[-1]
        self.batches = [MicroBatch(audio=audio, inputs=audio, frames=frames)]

    def micro_batches(self, step: int, rank: int, world: int) -> list[Any]:
        """Whatever the step, this."""
        return self.batches


def trainee(teacher: Any, feed: Any, *, gates: bool, **training: Any) -> Any:
    """The trainee of a phase, its student a copy of the teacher."""
    import torch

    from secateur.compress.config import Distillation, LearnConfig
    from secateur.compress.distiller import DistillationModel
    from secateur.compress.step import DistillUnit, PruneUnit
    from secateur.compress.student import Student
    from secateur.compress.targets import CostTarget
    from secateur.cost import Cost, Terms
    from secateur.gates import HardConcrete, HardConcreteGates
    from secateur.hf.declare import declare
    from secateur.losses.constraint import Constraint

    student_view = ModelView(copy.deepcopy(teacher).requires_grad_(True))
    teacher_view = ModelView(teacher)
    learning = LearnConfig(**training)
    distillation_model = DistillationModel(
        student_view, Distillation(), gradient_checkpointing=learning.gradient_checkpointing
    )
    if not gates:
        return DistillUnit(distillation_model, teacher_view, feed, [], learning)
    structure = declare(teacher.config)
    cost, constraint = Cost.from_terms(Terms(structure), cost="parameters"), Constraint(target=0.25)
    gate_set = HardConcreteGates(structure, dict.fromkeys(KINDS, HardConcrete()), seed=0)
    with torch.no_grad():  # of each axis of several units, or of all blocks, the first 38 % open, the last 38 % closed
        counts = [axis.size for axis in gate_set.axes if axis.size > 1]
        blocks = sum(axis.size == 1 for axis in gate_set.axes)
        small = torch.tensor([axis.size == 1 for axis in gate_set.axes for _ in axis.units])
        gate_set.log_alpha[~small] = torch.cat([_decided(count) for count in counts])
        gate_set.log_alpha[small] = _decided(blocks)
    return PruneUnit(
        distillation_model,
        teacher_view,
        feed,
        [],
        learning,
        gates=gate_set,
        student=Student(student_view, structure),
        cost_targets=[
            CostTarget(constraint=constraint, cost=cost, share=constraint.resolve_share(dense=cost.dense, audio=1.0))
        ],
    )


def _decided(count: int) -> Any:
    import torch

    place = torch.arange(count) / (count - 1)
    return torch.where(place <= 0.38, 12.0, torch.where(place >= 0.62, -12.0, 0.0))


def check_gates(pruning: Any) -> None:
    """Raise unless enough of every kind is open, and enough closed, in the masks of this step."""
    structure, drawn = pruning.gates.structure, pruning.drawn.detach()
    for kind in KINDS:
        opened = [
            bool(drawn[structure.offsets[axis.name] + position] != 0)
            for axis in pruning.gates.axes
            if axis.kind == kind
            for position in range(axis.size)
        ]
        share = sum(opened) / len(opened)
        assert LEAST <= share <= 1 - LEAST, f"{share:.0%} of {kind} are open"


@contextlib.contextmanager
def stepping(case: dict[str, Any], teacher: Any, feed: Any) -> Iterator[Callable[[], None]]:
    """A function that takes one optimiser step of a case."""
    from secateur.engine.distributed import DistributedContext
    from secateur.engine.optim import ScheduledOptimizer
    from secateur.engine.optimizer_step import train_step

    learner = trainee(teacher, feed, **case)
    count = iter(range(10**6))
    with DistributedContext.open(learner.module, learner.training.precision, True) as place:
        optimisers = {name: ScheduledOptimizer(spec) for name, spec in learner.optimizers().items()}

        def step() -> None:
            train_step(learner, place, optimisers, next(count), needs_metrics=False, describe_checkpoint=str)
            if case["gates"]:
                check_gates(learner)

        yield step


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """What a child process does: the times of all cases, or the peak memory of one."""
    import torch
    from transformers import WavLMConfig, WavLMModel

    from secateur.benchmarking.process_settings import tune_products
    from secateur.benchmarking.timing import interleave_timings
    from secateur.records.environment import Environment

    torch.set_num_threads(job["threads"])
    tune_products()
    baseline_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    teacher, feed = WavLMModel(WavLMConfig()).eval().requires_grad_(False), Feed(job["batch"], job["seconds"])
    if job["kind"] == "memory":
        with stepping(CASES[job["case"]], teacher, feed) as step:
            for _ in range(3):
                step()
        return {"peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline_memory) / 1024}
    times: dict[str, Any] = {}
    for reference in sorted(set(REFERENCE.values())):  # all at once would not fit into memory
        with contextlib.ExitStack() as stack:
            matching_rows = [name for name in CASES if REFERENCE[name] == reference]
            steps = {name: stack.enter_context(stepping(CASES[name], teacher, feed)) for name in matching_rows}
            times |= interleave_timings(steps, repeats=job["repeats"], warmup=2)
    return {
        "times": {name: vars(timing) for name, timing in times.items()},
        "environment": Environment.current().to_dict(),
    }


def child(job: dict[str, Any]) -> dict[str, Any]:
    """A process of its own, under the settings of `secateur prune`."""
    environment = os.environ | MALLOC_SETTINGS | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(job["threads"])}
    command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["| step | seconds | time ratio | peak memory | memory ratio |", "|---|---|---|---|---|"]
    for name, row in record["rows"].items():
        lines.append(
            f"| {name} | {row['median_ms'] / 1e3:.2f} ({row['low_ms'] / 1e3:.2f} to {row['high_ms'] / 1e3:.2f}) | "
            f"{row['time_ratio']:.3f} | {row['peak_mib']:.0f} MiB | {row['memory_ratio']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the record goes")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(json.loads(options.job))))
        return
    job = {name: getattr(options, name) for name in ("batch", "seconds", "threads", "repeats")}
    timed = child(job | {"kind": "time"})
    rows = timed["times"]
    for name in CASES:
        rows[name] |= child(job | {"kind": "memory", "case": name})
        reference = rows[REFERENCE[name]]
        rows[name]["time_ratio"] = rows[name]["median_ms"] / reference["median_ms"]
        rows[name]["memory_ratio"] = rows[name]["peak_mib"] / reference["peak_mib"]
    record = {"format": 1, "job": job, "environment": timed["environment"], "rows": rows}
    print(table(record))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
