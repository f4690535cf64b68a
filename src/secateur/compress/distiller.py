"""The model that the training loop wraps: a student, with the distances to a teacher and the loss of a task."""

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

#: The numbers of a hidden state of the student and of the teacher; 0 is the input of the first layer.
Pair = tuple[int, int]


class EncoderOutput(NamedTuple):
    """The hidden states and the output of a forward pass."""

    states: dict[int, Tensor]
    """hidden states by number, 0 being the input of the first layer: (B, T, D) each"""
    output: Tensor
    """logits of the task head, (B, T, V) or (B, classes); of an encoder its last hidden state, (B, T, D)"""


def model_inputs(view: ModelView, audio: AudioBatch) -> dict[str, Tensor]:
    """Return the keyword arguments of a forward pass, and set the lengths in a front end that uses lengths."""
    weight = next(view.model.parameters())
    set_valid_lengths(view.encoder, None if audio.mask is None else audio.lengths)
    # (B, samples) or (B, positions, width); batches are float32, the weights may be bfloat16.
    inputs = {view.model.main_input_name: audio.values.to(weight.device, weight.dtype)}
    return inputs if audio.mask is None else inputs | {"attention_mask": audio.mask.to(weight.device)}


def audio_part(view: ModelView) -> ModelView:
    """Return the part of a model that runs on audio alone: the encoder of a transducer, else the whole model."""
    return view.encoder_view if hasattr(view.model, "joint") else view


def trainable_part(view: ModelView, task: Task | None) -> ModelView:
    """Return the part of a model that learns: the whole model if the task has a head in the model, else the encoder."""
    return view if task is not None and task.head_class else view.encoder_view


def encode(view: ModelView, audio: AudioBatch, layers: Collection[int] | None = None) -> EncoderOutput:
    """Return the hidden states and the output of an encoder, with or without a task head, for a batch.

    The number of hidden states is asserted, since layer-drop and stale hooks shift layers silently.

    Args:
        view: The encoder or the model with its head; of a transducer only the encoder is run.
        audio: The batch.
        layers: Numbers of the hidden states that are kept; None keeps all.
    """
    requested_layers: Any = True if layers is None else sorted(layers)
    view = audio_part(view)
    # Without requested layers an empty list becomes False: no hidden states are recorded.
    result = view.model(**model_inputs(view, audio), output_hidden_states=requested_layers or False)
    output = result.logits if hasattr(result, "logits") else result.last_hidden_state
    if not requested_layers:
        return EncoderOutput({}, output)
    expected_count = view.encoder_config.num_hidden_layers + 1  # state 0 is the input of the first layer
    states = result.hidden_states
    assert len(states) == expected_count, f"got {len(states)} hidden states of {expected_count}"
    # Layers that were not requested are None.
    return EncoderOutput({layer: state for layer, state in enumerate(states) if state is not None}, output)


def hidden_states(view: ModelView, audio: AudioBatch, layers: Collection[int] | None = None) -> dict[int, Tensor]:
    """Return the hidden states of `encode`."""
    return encode(view, audio, layers).states


def compile_encoder(view: ModelView) -> ModelView:
    """Return an encoder, with or without a head, behind `torch.compile`; the parameters are shared."""
    # transformers installs the hooks that record hidden states in the first pass, which would break the graph. For a
    # model with a head the hooks go on the encoder: on the whole model, hooks of an earlier pass of the encoder would
    # stay, and each hidden state would be recorded twice.
    maybe_install_capturing_hooks(view.encoder)
    compiled: Any = torch.compile(view.model)
    return ModelView(compiled)


class LossSums(NamedTuple):
    """The distances and losses of a forward pass of the student, summed over a micro-batch."""

    pairs: Tensor
    """distance of each pair of hidden states, summed over valid frames, (pairs,)"""
    layer_distances: Tensor | None
    """for a learned layer mapping, the distances between all layers, (teacher layers, student layers), without
    gradient"""
    output: Tensor
    """logits of the task head, or the last hidden state without a head"""
    task: Tensor | None
    """loss of the task, summed"""


class DistillationModel(nn.Module):
    """The student with the projections that distillation adds: the module that the training loop wraps."""

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
            distill: Settings of the distillation; None to learn a task alone.
            head: A head that the task keeps outside the model.
            compile: Whether training passes run compiled; passes of validation have too many lengths to gain from it.
            gradient_checkpointing: Whether the backward pass recomputes the activations of each layer.
        """
        super().__init__()
        self.compile_forward = compile
        self.gradient_checkpointing = gradient_checkpointing
        self.set_student(student_view)
        self.distill = distill
        self.head = nn.Module() if head is None else head
        config = self.student_view.encoder_config
        self.depth = config.num_hidden_layers
        self.width = config.hidden_size
        pairing = FixedLayerMapping() if distill is None else distill.pairing
        self.layers = () if distill is None else teacher_layers(pairing, self.depth)
        self.maps = StudentProjections(pairing.maps, self.layers, self.width)
        self.has_learned_mapping = isinstance(pairing, LearnedLayerMapping)
        if not isinstance(pairing, FixedLayerMapping | LearnedLayerMapping):
            raise TypeError(pairing)
        self.eval()

    def set_student(self, student_view: ModelView) -> None:
        """Replace the student, by the same encoder or by a smaller encoder that computes the same output."""
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
        """Return the distances and the loss of the task, summed over valid frames and utterances.

        Args:
            audio: The batch.
            teacher: The hidden states of the teacher by number, (B, T, D) each.
            pairs: Pairs of a hidden state of the student and the hidden state of the teacher to imitate.
            task: The task. The loss is computed here, inside the wrapped module, since it may use parameters of a head.
            task_targets: The targets of the task for the batch.
            masks: Masked frames and features behind the front end of the student.
        """
        set_masks(self.student_view.encoder, masks)
        student = self._compiled_view if self._compiled_view and torch.is_grad_enabled() else self.student_view
        paired_layers = {student_layer for student_layer, _ in pairs}
        states, output = encode(student, audio, None if self.has_learned_mapping else paired_layers)
        task_loss = None
        if task is not None:
            task_loss = task.loss(output, self.frame_counts(audio), task_targets, model=self.student)
        if not pairs:
            return LossSums(torch.zeros(0), None, output, task_loss)  # (0,), no pairs without distillation
        valid = None if audio.mask is None else self.valid_frames(audio)
        targets = {layer: _at_least_float32(state) for layer, state in teacher.items()}
        # By layer of the student and name of the projection: layers of the teacher may share a projection.
        projected: dict[tuple[int, str], Tensor] = {}

        def distance(student_layer: int, teacher_layer: int) -> Tensor:
            key = student_layer, self.maps.projection_name(teacher_layer)
            if key not in projected:
                projected[key] = _at_least_float32(self.maps(states[student_layer], teacher_layer))  # (B, T, D)
            assert self.distill is not None
            # (B, T) per frame -> (), summed over valid frames
            return sum_over(self.distill.distance.per_frame(projected[key], targets[teacher_layer]), valid)

        # () each -> (pairs,)
        sums = torch.stack([distance(student_layer, teacher_layer) for student_layer, teacher_layer in pairs])
        if not self.has_learned_mapping:
            return LossSums(sums, None, output, task_loss)
        with torch.no_grad():
            rows = []
            for teacher_layer in self.layers:
                # States 1 to depth are the outputs of layers; state 0 is the input of the first.
                row = [distance(student_layer, teacher_layer) for student_layer in range(1, self.depth + 1)]
                rows.append(torch.stack(row))
        # rows of (student layers,) -> (teacher layers, student layers)
        return LossSums(sums, torch.stack(rows), output, task_loss)

    def frame_counts(self, audio: AudioBatch) -> Tensor:
        """Return the number of valid frames of each utterance, on the device of the student: (B,)."""
        return frames_of(self.student, audio.lengths).to(next(self.student.parameters()).device)

    def valid_frames(self, audio: AudioBatch) -> Tensor:
        """Return whether each frame is audio rather than padding: (B, T)."""
        frames = self.frame_counts(audio)
        # (T,) < (B, 1) -> (B, T)
        return torch.arange(int(frames.max()), device=frames.device) < frames[:, None]


def _at_least_float32(state: Tensor) -> Tensor:
    """Return a hidden state as float32 or float64, exact enough for sums over frames and features."""
    return state if state.dtype == torch.float64 else state.float()


def _enable_gradient_checkpointing(base: Any) -> None:
    """Make the backward pass of an encoder recompute the activations inside the layers."""
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Only `forward` is recomputed: hooks, which record hidden states and drop layers, run once. Dropout is
            # inside, so `checkpoint` restores the random state and draws the same again.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
