"""A student that imitates its teacher's hidden states: one forward pass, and the distances it comes to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from secateur.compress.config import Distillation
from secateur.data.collate import AudioBatch
from secateur.objective.distill import sum_over
from secateur.objective.pairing import Fixed, Learned, StudentMaps, teacher_layers

#: (student's hidden state, teacher's hidden state), 0 being the input of the first layer.
Pair = tuple[int, int]


def hidden_states(base: nn.Module, audio: AudioBatch, layers: Collection[int] | None = None) -> dict[int, Tensor]:
    """Hidden states of an encoder by number, 0 being the input of its first layer: (B, T, D) each.

    Their number is asserted, since layer-drop and stale hooks shift layers silently.

    Args:
        base: The encoder.
        audio: The batch.
        layers: Numbers of those that are kept; None keeps all.
    """
    weight = next(base.parameters())
    mask = None if audio.mask is None else audio.mask.to(weight.device)
    wanted: Any = True if layers is None else sorted(layers)
    values = audio.values.to(weight.device, weight.dtype)
    states = base(values, attention_mask=mask, output_hidden_states=wanted).hidden_states
    config: Any = base.config
    expected = config.num_hidden_layers + 1
    assert len(states) == expected, f"got {len(states)} hidden states of {expected}"
    return {layer: state for layer, state in enumerate(states) if state is not None}


def compiled(base: Any) -> Any:
    """An encoder behind `torch.compile`, its parameters shared."""
    maybe_install_capturing_hooks(base)  # the library would in the first pass, where it breaks the graph
    return torch.compile(base)


class Imitator(nn.Module):
    """The student with its maps: what the loop trains and wraps."""

    def __init__(
        self, student: nn.Module, distill: Distillation, *, compile: bool = False, recompute: bool = False
    ) -> None:
        """
        Args:
            student: The encoder, with masks or cut.
            distill: What it imitates.
            compile: Whether passes that learn run compiled; others, of many lengths and few each, are not worth it.
            recompute: Whether the backward pass computes each layer's activations again instead of keeping them.
        """
        super().__init__()
        self.compile_passes, self.recompute = compile, recompute
        self.take(student)
        self.distance = distill.distance
        config: Any = student.config
        self.depth = config.num_hidden_layers
        self.layers = teacher_layers(distill.pairing, self.depth)
        self.maps = StudentMaps(distill.pairing.maps, self.layers, config.hidden_size)
        self.learned = isinstance(distill.pairing, Learned)
        if not isinstance(distill.pairing, Fixed | Learned):
            raise TypeError(distill.pairing)
        # Never reached while distilling: SpecAugment is off.
        if hasattr(student, "masked_spec_embed"):
            student.masked_spec_embed.requires_grad_(False)
        self.eval()

    def take(self, student: nn.Module) -> None:
        """Use this student from now on: the same encoder, or a smaller one that computes the same."""
        self.student: Any = student
        if self.recompute:
            _recompute(student)
        # In a tuple, since the compiled encoder is no part of this module: its parameters are the student's.
        self._compiled = (compiled(student),) if self.compile_passes else ()

    def forward(
        self, audio: AudioBatch, teacher: dict[int, Tensor], pairs: Sequence[Pair]
    ) -> tuple[Tensor, Tensor | None]:
        """Distances summed over valid frames.

        Args:
            audio: The batch.
            teacher: The teacher's hidden states by number, (B, T, D) each.
            pairs: Which imitates which.

        Returns:
            The sum of each pair, (pairs,); and for a learned pairing the sums between every teacher layer and every
            student layer, (teacher layers, layers), without gradient.
        """
        student = self._compiled[0] if self._compiled and torch.is_grad_enabled() else self.student
        states = hidden_states(student, audio, None if self.learned else {mine for mine, _ in pairs})
        valid = None
        if audio.mask is not None:
            some = next(iter(states.values()))
            frames = self.student._get_feat_extract_output_lengths(audio.lengths).to(some.device)
            valid = torch.arange(some.shape[1], device=frames.device) < frames[:, None]

        targets = {layer: _wide(state) for layer, state in teacher.items()}
        mapped: dict[tuple[int, str], Tensor] = {}  # several of the teacher's layers have the same map

        def distance(mine: int, theirs: int) -> Tensor:
            key = mine, self.maps.name(theirs)
            if key not in mapped:
                mapped[key] = _wide(self.maps(states[mine], theirs))
            return sum_over(self.distance.per_frame(mapped[key], targets[theirs]), valid)

        sums = torch.stack([distance(mine, theirs) for mine, theirs in pairs])
        if not self.learned:
            return sums, None
        with torch.no_grad():
            every = torch.stack(
                [torch.stack([distance(mine, theirs) for mine in range(1, self.depth + 1)]) for theirs in self.layers]
            )
        return sums, every


def _wide(state: Tensor) -> Tensor:
    """Sums over frames and features want float32 at least."""
    return state if state.dtype == torch.float64 else state.float()


def _recompute(base: Any) -> None:
    """Make an encoder keep no activations inside its layers for the backward pass, which computes them again."""
    for layer in (*base.feature_extractor.conv_layers, *base.encoder.layers):
        # Around `forward` alone: hooks, which record hidden states, run once. Nothing in a layer is random.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
