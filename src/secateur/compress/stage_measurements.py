"""Stages of a run: the dense, the shrunk and the recovered model, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from secateur.compress.distiller import DistillationModel
from secateur.compress.fidelity import fidelity, score_task, time_encoders
from secateur.compress.run_context import RunContext
from secateur.hf.model_view import ModelView
from secateur.records.run import StageRecord, TimeRecord
from secateur.tasks import Task

#: Seconds of audio in a timed forward pass.
TIMED_SECONDS = 10.0

#: Timed forward passes of each model.
TIMED_REPEATS = 7


class RunStage(NamedTuple):
    """The model, the module that trains the model, and the task, at a point of the run."""

    view: ModelView
    distiller: DistillationModel
    task: Task | None


def stage_records(context: RunContext, stages: Mapping[str, RunStage]) -> tuple[StageRecord, ...]:
    """Return the size, speed, fidelity and task scores of the models at several points of the run, by name."""
    batches = context.held_out_batches()
    threads = torch.get_num_threads()  # of the CPU; the measured times depend on them
    views = {name: stage.view for name, stage in stages.items()}
    rate = context.input_features.sample_rate
    times = time_encoders(views, sample_rate=rate, seconds=TIMED_SECONDS, repeats=TIMED_REPEATS)
    records = []
    for name, (view, distiller, task) in stages.items():
        time = TimeRecord(**asdict(times[name]), seconds_of_audio=TIMED_SECONDS, batch=1, threads=threads)
        encoder_parameters = sum(parameter.numel() for parameter in view.encoder.parameters())
        head_parameters = sum(parameter.numel() for parameter in view.model.parameters()) - encoder_parameters
        record = StageRecord(name=name, parameters=encoder_parameters, head=head_parameters, time=time)
        if context.config.distill is not None:
            distance = fidelity(distiller.cpu(), context.teacher_view.encoder_view, batches)
            record = replace(record, loss=distance.loss, cosine=distance.cosine)
        # A new head of the dense model is random, and its scores mean nothing.
        if task is not None and not (name == "dense" and context.has_new_head):
            record = replace(record, scores=score_task(task, view, batches))
        records.append(record)
    return tuple(records)
