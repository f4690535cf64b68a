"""A student that imitates its teacher and does a task: one forward pass, and the distances and losses it comes to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from secateur.compress.config import Distillation
from secateur.compress.spec_augment import NO_MASKS, SpecMasks, set_masks
from secateur.data.collate import AudioBatch
from secateur.hf.frame_counts import frames_of
from secateur.hf.model_view import ModelView
from secateur.losses.distances import sum_over
from secateur.losses.layer_mapping import (
    FixedLayerMapping,
    LearnedLayerMapping,
    StudentProjections,
    teacher_layers,
)
from secateur.nn.norm import set_valid_lengths
from secateur.tasks import Task

#: (student's hidden state, teacher's hidden state), 0 being the input of the first layer.
Pair = tuple[int, int]


class EncoderOutput(NamedTuple):
    """What a forward pass gave."""

    states: dict[int, Tensor]
    """hidden states by number, 0 being the input of the first layer: (B, T, D) each"""
    output: Tensor
    """logits of the task head, (B, T, V) or (B, classes); of an encoder its last hidden state, (B, T, D)"""


def model_inputs(view: ModelView, audio: AudioBatch) -> dict[str, Tensor]:
    """What a model's forward pass takes of a batch, by name, and the lengths told to a front end that wants them."""
    weight = next(view.model.parameters())
    set_valid_lengths(view.encoder, None if audio.mask is None else audio.lengths)
    inputs = {view.model.main_input_name: audio.values.to(weight.device, weight.dtype)}
    return inputs if audio.mask is None else inputs | {"attention_mask": audio.mask.to(weight.device)}


def audio_part(view: ModelView) -> ModelView:
    """What of a model can be run on audio alone: all of it; the encoder of a transducer, whose head wants tokens."""
    return view.encoder_view if hasattr(view.model, "joint") else view


def trainable_part(view: ModelView, task: Task | None) -> ModelView:
    """What of a model learns: all of it with the head of a task, else the encoder alone."""
    return view if task is not None and task.head_class else view.encoder_view


def encode(view: ModelView, audio: AudioBatch, layers: Collection[int] | None = None) -> EncoderOutput:
    """One forward pass of an encoder, with or without a task head.

    The number of hidden states is asserted, since layer-drop and stale hooks shift layers silently.

    Args:
        view: The encoder or the model with its head; of a transducer only the encoder is run.
        audio: The batch.
        layers: Numbers of the hidden states that are kept; None keeps all.
    """
    requested_layers: Any = True if layers is None else sorted(layers)
    view = audio_part(view)
    result = view.model(**model_inputs(view, audio), output_hidden_states=requested_layers or False)
    output = result.logits if hasattr(result, "logits") else result.last_hidden_state
    if not requested_layers:
        return EncoderOutput({}, output)
    expected_count = view.encoder_config.num_hidden_layers + 1
    states = result.hidden_states
    assert len(states) == expected_count, f"got {len(states)} hidden states of {expected_count}"
    return EncoderOutput({layer: state for layer, state in enumerate(states) if state is not None}, output)


def hidden_states(view: ModelView, audio: AudioBatch, layers: Collection[int] | None = None) -> dict[int, Tensor]:
    """The hidden states of `passed`."""
    return encode(view, audio, layers).states


def compile_encoder(view: ModelView) -> ModelView:
    """Return a model behind `torch.compile`, its parameters shared."""
    # The library would in the first pass, where it breaks the graph. Asked for the whole of a model with a head, it
    # would do so again where its encoder had a pass before, and hidden states would come twice.
    maybe_install_capturing_hooks(view.encoder)
    compiled: Any = torch.compile(view.model)
    return ModelView(compiled)


class LossSums(NamedTuple):
    """What a student's forward pass comes to."""

    pairs: Tensor
    """distance of each pair of hidden states, summed over valid frames, (pairs,)"""
    layer_distances: Tensor | None
    """for a learned pairing, the same between every teacher layer and every student layer, (teacher layers, layers),
    without gradient"""
    output: Tensor
    """logits of the student's task head, or its last hidden state"""
    task: Tensor | None
    """the task's loss, summed"""


class DistillationModel(nn.Module):
    """The student with its maps: what the loop trains and wraps."""

    def __init__(
        self,
        student_view: ModelView,
        distill: Distillation | None,
        *,
        head: nn.Module | None = None,
        compile: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        """
        Args:
            student_view: The encoder, with masks or cut, with or without a task head.
            distill: What it imitates; None for nothing: it learns its task alone.
            head: A head of the task's own, which learns beside it.
            compile: Whether passes that learn run compiled; others, of many lengths and few each, are not worth it.
            recompute: Whether the backward pass computes each layer's activations again instead of keeping them.
        """
        super().__init__()
        self.compile_forward, self.gradient_checkpointing = compile, gradient_checkpointing
        self.set_student(student_view)
        self.distill = distill
        self.head = nn.Module() if head is None else head
        config = self.student_view.encoder_config
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        pairing = FixedLayerMapping() if distill is None else distill.pairing
        self.layers = () if distill is None else teacher_layers(pairing, self.depth)
        self.maps = StudentProjections(pairing.maps, self.layers, self.width)
        self.has_learned_mapping = isinstance(pairing, LearnedLayerMapping)
        if not isinstance(pairing, FixedLayerMapping | LearnedLayerMapping):
            raise TypeError(pairing)
        self.eval()

    def set_student(self, student_view: ModelView) -> None:
        """Use this student from now on: the same encoder, or a smaller one that computes the same."""
        self.student_view = student_view
        self.student: Any = self.student_view.model
        if self.gradient_checkpointing:
            _enable_gradient_checkpointing(self.student_view.encoder)
        # In a view, which registers no module: the parameters of the compiled encoder are the student's.
        self._compiled_view = compile_encoder(audio_part(student_view)) if self.compile_forward else None

    def forward(
        self,
        audio: AudioBatch,
        teacher: dict[int, Tensor],
        pairs: Sequence[Pair],
        task: Task | None = None,
        task_targets: Any = (),
        *,
        masks: SpecMasks = NO_MASKS,
    ) -> LossSums:
        """Distances and a task's loss, summed over valid frames and utterances.

        Args:
            audio: The batch.
            teacher: The teacher's hidden states by number, (B, T, D) each.
            pairs: Which imitates which.
            task: What is learned beside; its loss is computed here, since it may go through parameters of a head.
            asked: What the task takes beside.
            masks: What the student does not get of its front end's frames.
        """
        set_masks(self.student_view.encoder, masks)
        student = self._compiled_view if self._compiled_view and torch.is_grad_enabled() else self.student_view
        states, output = encode(
            student, audio, None if self.has_learned_mapping else {student_layer for student_layer, _ in pairs}
        )
        task_loss = (
            None if task is None else task.loss(output, self.frame_counts(audio), task_targets, model=self.student)
        )
        if not pairs:
            return LossSums(torch.zeros(0), None, output, task_loss)
        valid = None if audio.mask is None else self.valid_frames(audio)
        targets = {layer: _at_least_float32(state) for layer, state in teacher.items()}
        projected: dict[tuple[int, str], Tensor] = {}  # several of the teacher's layers have the same map

        def distance(student_layer: int, teacher_layer: int) -> Tensor:
            key = student_layer, self.maps.projection_name(teacher_layer)
            if key not in projected:
                projected[key] = _at_least_float32(self.maps(states[student_layer], teacher_layer))
            assert self.distill is not None
            return sum_over(self.distill.distance.per_frame(projected[key], targets[teacher_layer]), valid)

        sums = torch.stack([distance(student_layer, teacher_layer) for student_layer, teacher_layer in pairs])
        if not self.has_learned_mapping:
            return LossSums(sums, None, output, task_loss)
        with torch.no_grad():
            layer_distances = torch.stack(
                [
                    torch.stack([distance(student_layer, teacher_layer) for student_layer in range(1, self.depth + 1)])
                    for teacher_layer in self.layers
                ]
            )
        return LossSums(sums, layer_distances, output, task_loss)

    def frame_counts(self, audio: AudioBatch) -> Tensor:
        """Valid frames of each utterance, (B,), on the student's device."""
        return frames_of(self.student, audio.lengths).to(next(self.student.parameters()).device)

    def valid_frames(self, audio: AudioBatch) -> Tensor:
        """Which frames are no padding, (B, T)."""
        frames = self.frame_counts(audio)
        return torch.arange(int(frames.max()), device=frames.device) < frames[:, None]


def _at_least_float32(state: Tensor) -> Tensor:
    """Sums over frames and features want float32 at least."""
    return state if state.dtype == torch.float64 else state.float()


def _enable_gradient_checkpointing(base: Any) -> None:
    """Make an encoder keep no activations inside its layers for the backward pass, which computes them again."""
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Around `forward` alone: hooks, which record hidden states and drop layers, run once. Dropout is drawn in
            # there, and must be the same when it is drawn again.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
