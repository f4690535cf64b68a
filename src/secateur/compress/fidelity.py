"""How near a model is to its teacher, how well it does its task and how fast it is, on the same audio in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.compress.batches import MicroBatch
from secateur.compress.imitate import Imitator, hidden_states, inputs_of, learning_part
from secateur.masking.attach import base_of
from secateur.modules.lengths import frames_of
from secateur.objective.tasks import Task
from secateur.timing import Timing, interleave


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
def fidelity(imitator: Imitator, teacher: nn.Module, batches: Sequence[MicroBatch]) -> Fidelity:
    """Compare a student with its teacher on held-out audio."""
    imitator.eval()
    pairs = [(layer, layer) for layer in imitator.layers]
    loss = 0.0
    cosine: Tensor | None = None
    for batch in batches:
        states = hidden_states(teacher, batch.audio)
        loss += float(imitator(batch.audio, states, pairs).pairs.mean()) / batch.frames
        mine = hidden_states(imitator.student, batch.audio)
        each = torch.stack([F.cosine_similarity(mine[i], states[i], dim=-1).sum() for i in mine])
        cosine = each / batch.frames if cosine is None else cosine + each / batch.frames
    assert cosine is not None
    return Fidelity(loss=loss, cosine=tuple(cosine.tolist()))


@torch.no_grad()
def score(task: Task, model: nn.Module, batches: Sequence[MicroBatch]) -> dict[str, float]:
    """How well a model does its task on held-out audio: the task's figures, such as ``wer``."""
    model = learning_part(model, task).eval()
    scorer = task.scorer()
    for batch in batches:
        answers = task.answers(model, inputs_of(model, batch.heard))
        scorer.add(answers, frames_of(model, batch.heard.lengths), batch.asked)
    return dict(scorer.figures())


@torch.no_grad()
def speed(
    models: Mapping[str, PreTrainedModel], *, sample_rate: int, seconds: float, repeats: int
) -> dict[str, Timing]:
    """Return the time of one forward pass of each encoder over that much audio at batch 1, interleaved in one run."""
    shape = declare(next(iter(models.values())).config).input_shape(1, round(sample_rate * seconds))
    audio = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def forward(model: nn.Module) -> Tensor:
        return model(audio.to(next(model.parameters()).device))[0]  # type: ignore[no-any-return]

    bases = {name: base_of(model).eval() for name, model in models.items()}
    return interleave({name: partial(forward, base) for name, base in bases.items()}, repeats=repeats, warmup=2)
