"""A student that imitates its teacher and does a task: one forward pass, and the distances and losses it comes to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from secateur.compress.config import Distillation
from secateur.compress.spec_augment import NOTHING, SpecMasks, set_masks
from secateur.data.collate import AudioBatch
from secateur.masking.attach import base_of
from secateur.modules.families import encoder_config
from secateur.modules.lengths import frames_of
from secateur.modules.norm import tell_lengths
from secateur.objective.distill import sum_over
from secateur.objective.pairing import Fixed, Learned, StudentMaps, teacher_layers
from secateur.objective.tasks import Task

#: (student's hidden state, teacher's hidden state), 0 being the input of the first layer.
Pair = tuple[int, int]


class Passed(NamedTuple):
    """What a forward pass gave."""

    states: dict[int, Tensor]
    """hidden states by number, 0 being the input of the first layer: (B, T, D) each"""
    output: Tensor
    """logits of the task head, (B, T, V) or (B, classes); of an encoder its last hidden state, (B, T, D)"""


def inputs_of(model: nn.Module, audio: AudioBatch) -> dict[str, Tensor]:
    """What a model's forward pass takes of a batch, by name, and the lengths told to a front end that wants them."""
    weight = next(model.parameters())
    tell_lengths(base_of(model), None if audio.mask is None else audio.lengths)
    inputs = {cast(Any, model).main_input_name: audio.values.to(weight.device, weight.dtype)}
    return inputs if audio.mask is None else inputs | {"attention_mask": audio.mask.to(weight.device)}


def hearing_part(model: nn.Module) -> nn.Module:
    """What of a model can be run on audio alone: all of it; the encoder of a transducer, whose head wants tokens."""
    return base_of(model) if hasattr(model, "joint") else model


def learning_part(model: nn.Module, task: Task | None) -> nn.Module:
    """What of a model learns: all of it with the head of a task, else the encoder alone."""
    return model if task is not None and task.ending else base_of(model)


def passed(model: nn.Module, audio: AudioBatch, layers: Collection[int] | None = None) -> Passed:
    """One forward pass of an encoder, with or without a task head.

    The number of hidden states is asserted, since layer-drop and stale hooks shift layers silently.

    Args:
        model: The encoder or the model with its head; of a transducer only the encoder is run.
        audio: The batch.
        layers: Numbers of the hidden states that are kept; None keeps all.
    """
    wanted: Any = True if layers is None else sorted(layers)
    model = hearing_part(model)
    result = model(**inputs_of(model, audio), output_hidden_states=wanted or False)
    output = result.logits if hasattr(result, "logits") else result.last_hidden_state
    if not wanted:
        return Passed({}, output)
    config = encoder_config(model.config)
    expected = config.num_hidden_layers + 1
    states = result.hidden_states
    assert len(states) == expected, f"got {len(states)} hidden states of {expected}"
    return Passed({layer: state for layer, state in enumerate(states) if state is not None}, output)


def hidden_states(model: nn.Module, audio: AudioBatch, layers: Collection[int] | None = None) -> dict[int, Tensor]:
    """The hidden states of `passed`."""
    return passed(model, audio, layers).states


def compiled(base: Any) -> Any:
    """An encoder, with or without a head, behind `torch.compile`, its parameters shared."""
    # The library would in the first pass, where it breaks the graph. Asked for the whole of a model with a head, it
    # would do so again where its encoder had a pass before, and hidden states would come twice.
    encoder: Any = base_of(base)
    maybe_install_capturing_hooks(encoder)
    return torch.compile(base)


class Sums(NamedTuple):
    """What a student's forward pass comes to."""

    pairs: Tensor
    """distance of each pair of hidden states, summed over valid frames, (pairs,)"""
    every: Tensor | None
    """for a learned pairing, the same between every teacher layer and every student layer, (teacher layers, layers),
    without gradient"""
    output: Tensor
    """logits of the student's task head, or its last hidden state"""
    task: Tensor | None
    """the task's loss, summed"""


class Imitator(nn.Module):
    """The student with its maps: what the loop trains and wraps."""

    def __init__(
        self,
        student: nn.Module,
        distill: Distillation | None,
        *,
        head: nn.Module | None = None,
        compile: bool = False,
        recompute: bool = False,
    ) -> None:
        """
        Args:
            student: The encoder, with masks or cut, with or without a task head.
            distill: What it imitates; None for nothing: it learns its task alone.
            head: A head of the task's own, which learns beside it.
            compile: Whether passes that learn run compiled; others, of many lengths and few each, are not worth it.
            recompute: Whether the backward pass computes each layer's activations again instead of keeping them.
        """
        super().__init__()
        self.compile_passes, self.recompute = compile, recompute
        self.take(student)
        self.distill = distill
        self.head = nn.Module() if head is None else head
        config = encoder_config(student.config)
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        pairing = Fixed() if distill is None else distill.pairing
        self.layers = () if distill is None else teacher_layers(pairing, self.depth)
        self.maps = StudentMaps(pairing.maps, self.layers, self.width)
        self.learned = isinstance(pairing, Learned)
        if not isinstance(pairing, Fixed | Learned):
            raise TypeError(pairing)
        self.eval()

    def take(self, student: nn.Module) -> None:
        """Use this student from now on: the same encoder, or a smaller one that computes the same."""
        self.student: Any = student
        if self.recompute:
            _recompute(base_of(student))
        # In a tuple, since the compiled encoder is no part of this module: its parameters are the student's.
        self._compiled = (compiled(hearing_part(student)),) if self.compile_passes else ()

    def forward(
        self,
        audio: AudioBatch,
        teacher: dict[int, Tensor],
        pairs: Sequence[Pair],
        task: Task | None = None,
        asked: Any = (),
        *,
        masks: SpecMasks = NOTHING,
    ) -> Sums:
        """Distances and a task's loss, summed over valid frames and utterances.

        Args:
            audio: The batch.
            teacher: The teacher's hidden states by number, (B, T, D) each.
            pairs: Which imitates which.
            task: What is learned beside; its loss is computed here, since it may go through parameters of a head.
            asked: What the task takes beside.
            masks: What the student does not get of its front end's frames.
        """
        set_masks(base_of(self.student), masks)
        student = self._compiled[0] if self._compiled and torch.is_grad_enabled() else self.student
        states, output = passed(student, audio, None if self.learned else {mine for mine, _ in pairs})
        loss = None if task is None else task.sums(output, self.frames(audio), asked, model=self.student)
        if not pairs:
            return Sums(torch.zeros(0), None, output, loss)
        valid = None if audio.mask is None else self.valid(audio)
        targets = {layer: _wide(state) for layer, state in teacher.items()}
        mapped: dict[tuple[int, str], Tensor] = {}  # several of the teacher's layers have the same map

        def distance(mine: int, theirs: int) -> Tensor:
            key = mine, self.maps.name(theirs)
            if key not in mapped:
                mapped[key] = _wide(self.maps(states[mine], theirs))
            assert self.distill is not None
            return sum_over(self.distill.distance.per_frame(mapped[key], targets[theirs]), valid)

        sums = torch.stack([distance(mine, theirs) for mine, theirs in pairs])
        if not self.learned:
            return Sums(sums, None, output, loss)
        with torch.no_grad():
            every = torch.stack(
                [torch.stack([distance(mine, theirs) for mine in range(1, self.depth + 1)]) for theirs in self.layers]
            )
        return Sums(sums, every, output, loss)

    def frames(self, audio: AudioBatch) -> Tensor:
        """Valid frames of each utterance, (B,), on the student's device."""
        return frames_of(self.student, audio.lengths).to(next(self.student.parameters()).device)

    def valid(self, audio: AudioBatch) -> Tensor:
        """Which frames are no padding, (B, T)."""
        frames = self.frames(audio)
        return torch.arange(int(frames.max()), device=frames.device) < frames[:, None]


def _wide(state: Tensor) -> Tensor:
    """Sums over frames and features want float32 at least."""
    return state if state.dtype == torch.float64 else state.float()


def _recompute(base: Any) -> None:
    """Make an encoder keep no activations inside its layers for the backward pass, which computes them again."""
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Around `forward` alone: hooks, which record hidden states and drop layers, run once. Dropout is drawn in
            # there, and must be the same when it is drawn again.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
