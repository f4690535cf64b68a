"""Measures of a model on held-out audio: distance to the teacher, scores of the task, and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.benchmarking.timing import Timing, interleave_timings
from secateur.compress.audio_batches import MicroBatch
from secateur.compress.distiller import DistillationModel, hidden_states, model_inputs, trainable_part
from secateur.hf.frame_counts import frames_of
from secateur.hf.model_view import ModelView
from secateur.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The distance of a student to the teacher on held-out audio.

    Attributes:
        loss: The distillation loss, with projections.
        cosine: Mean cosine similarity of each hidden state of student and teacher, without projections; index 0 is the
            input of the first layer.
    """

    loss: float
    cosine: tuple[float, ...]


@torch.no_grad()
def fidelity(distiller: DistillationModel, teacher_view: ModelView, batches: Sequence[MicroBatch]) -> Fidelity:
    """Compare a student with the teacher on held-out audio."""
    distiller.eval()
    pairs = [(layer, layer) for layer in distiller.layers]
    loss = 0.0
    cosine: Tensor | None = None
    for batch in batches:
        states = hidden_states(teacher_view, batch.audio)
        # `frames` counts all held-out audio, so the shares of the batches add up to a mean per frame.
        loss += float(distiller(batch.audio, states, pairs).pairs.mean()) / batch.frames
        student_states = hidden_states(distiller.student_view, batch.audio)
        # (1, T, D) each -> (hidden states,)
        similarities = [F.cosine_similarity(student_states[i], states[i], dim=-1).sum() for i in student_states]
        cosine_sums = torch.stack(similarities)
        cosine = cosine_sums / batch.frames if cosine is None else cosine + cosine_sums / batch.frames
    assert cosine is not None
    return Fidelity(loss=loss, cosine=tuple(cosine.tolist()))


@torch.no_grad()
def score_task(task: Task, view: ModelView, batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Return the scores of a task for a model on held-out audio, such as ``wer``."""
    view = trainable_part(view, task)
    model = view.model.eval()
    metric = task.metric()
    for batch in batches:
        predictions = task.predict(model, model_inputs(view, batch.inputs))
        metric.update(predictions, frames_of(model, batch.inputs.lengths), batch.task_targets)
    return dict(metric.compute())


@torch.no_grad()
def time_encoders(
    views: Mapping[str, ModelView], *, sample_rate: int, seconds: float, repeats: int
) -> dict[str, Timing]:
    """Return the time of a forward pass of each encoder for some seconds of audio at batch 1, measured in turn."""
    # (1, samples), or (1, positions, width) for a model that takes features
    shape = next(iter(views.values())).structure.input_shape(1, round(sample_rate * seconds))
    audio = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def forward(model: nn.Module) -> Tensor:
        # The first output is the last hidden state.
        return model(audio.to(next(model.parameters()).device))[0]  # type: ignore[no-any-return]

    bases = {name: view.encoder.eval() for name, view in views.items()}
    return interleave_timings({name: partial(forward, base) for name, base in bases.items()}, repeats=repeats, warmup=2)
