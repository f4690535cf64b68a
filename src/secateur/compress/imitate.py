"""A student that imitates its teacher's hidden states: one forward pass, and the distances it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compress.config import Distillation
from secateur.data.collate import AudioBatch
from secateur.objective.distill import sum_over
from secateur.objective.pairing import Fixed, Learned, StudentMaps, teacher_layers

#: (student's hidden state, teacher's hidden state), 0 being the input of the first layer.
Pair = tuple[int, int]


def hidden_states(base: nn.Module, audio: AudioBatch) -> tuple[Tensor, ...]:
    """All hidden states of an encoder: layers + 1 tensors of (B, T, D).

    The number is asserted, since layer-drop and stale hooks shift layers silently.
    """
    device = next(base.parameters()).device
    mask = None if audio.mask is None else audio.mask.to(device)
    states = base(audio.values.to(device), attention_mask=mask, output_hidden_states=True).hidden_states
    config: Any = base.config
    expected = config.num_hidden_layers + 1
    assert len(states) == expected, f"got {len(states)} hidden states of {expected}"
    return tuple(states)


class Imitator(nn.Module):
    """The student with its maps: what the loop trains and wraps."""

    def __init__(self, student: nn.Module, distill: Distillation) -> None:
        """
        Args:
            student: The encoder, with masks or cut.
            distill: What it imitates.
        """
        super().__init__()
        self.student: Any = student
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
        states = hidden_states(self.student, audio)
        valid = None
        if audio.mask is not None:
            frames = self.student._get_feat_extract_output_lengths(audio.lengths).to(states[0].device)
            valid = torch.arange(states[0].shape[1], device=frames.device) < frames[:, None]

        def distance(mine: int, theirs: int) -> Tensor:
            mapped = self.maps(states[mine], theirs).float()
            return sum_over(self.distance.per_frame(mapped, teacher[theirs].float()), valid)

        sums = torch.stack([distance(mine, theirs) for mine, theirs in pairs])
        if not self.learned:
            return sums, None
        with torch.no_grad():
            every = torch.stack(
                [torch.stack([distance(mine, theirs) for mine in range(1, self.depth + 1)]) for theirs in self.layers]
            )
        return sums, every
