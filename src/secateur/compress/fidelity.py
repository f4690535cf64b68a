"""How near a model is to its teacher, how well it does its task and how fast it is, on the same audio in one run."""

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
    """Held-out distance to the teacher.

    Attributes:
        loss: The distillation loss, its maps included.
        cosine: Mean cosine similarity of each hidden state with the teacher's, without maps; index 0 is the input of
            the first layer.
    """

    loss: float
    cosine: tuple[float, ...]


@torch.no_grad()
def fidelity(distiller: DistillationModel, teacher_view: ModelView, batches: Sequence[MicroBatch]) -> Fidelity:
    """Compare a student with its teacher on held-out audio."""
    distiller.eval()
    pairs = [(layer, layer) for layer in distiller.layers]
    loss = 0.0
    cosine: Tensor | None = None
    for batch in batches:
        states = hidden_states(teacher_view, batch.audio)
        loss += float(distiller(batch.audio, states, pairs).pairs.mean()) / batch.frames
        student_states = hidden_states(distiller.student_view, batch.audio)
        cosine_sums = torch.stack(
            [F.cosine_similarity(student_states[i], states[i], dim=-1).sum() for i in student_states]
        )
        cosine = cosine_sums / batch.frames if cosine is None else cosine + cosine_sums / batch.frames
    assert cosine is not None
    return Fidelity(loss=loss, cosine=tuple(cosine.tolist()))


@torch.no_grad()
def score_task(task: Task, view: ModelView, batches: Sequence[MicroBatch]) -> dict[str, float]:
    """How well a model does its task on held-out audio: the task's figures, such as ``wer``."""
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
    """Return the time of one forward pass of each encoder over that much audio at batch 1, interleaved in one run."""
    shape = next(iter(views.values())).structure.input_shape(1, round(sample_rate * seconds))
    audio = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def forward(model: nn.Module) -> Tensor:
        return model(audio.to(next(model.parameters()).device))[0]  # type: ignore[no-any-return]

    bases = {name: view.encoder.eval() for name, view in views.items()}
    return interleave_timings({name: partial(forward, base) for name, base in bases.items()}, repeats=repeats, warmup=2)
