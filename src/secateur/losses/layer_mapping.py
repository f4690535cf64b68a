"""Mapping of the student's hidden states to the teacher's, and projections of the student's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.errors import ConfigError

ProjectionKind = Literal["none", "shared", "each"]


@dataclass(frozen=True, kw_only=True)
class FixedLayerMapping:
    """Mapping of each listed hidden state to the teacher's at the same depth; 0 is the input of the first layer."""

    kind: Literal["fixed"] = "fixed"
    layers: tuple[int, ...] | None = None
    """hidden states; null: 0 and three more at a third, two thirds and all of the depth: 0, 4, 8 and 12 of 12"""
    maps: ProjectionKind = "none"
    """linear projections of the student's states, initially the identity: ``none``; ``shared``, one for state 0 and one
    for all later states, as in DPHuBERT; ``each``, one for every state"""


@dataclass(frozen=True, kw_only=True)
class LearnedLayerMapping:
    """Mapping of each teacher layer to the nearest student layer, from the top down (CoFi).

    Each teacher layer takes the student layer of least distance, among the layers with an open attention block and
    below the layer that the previous teacher layer took.

    Source: Xia et al. 2022, arXiv 2204.00408, section 3.2. Differs from the released code: enough student layers stay
    free for the remaining teacher layers (the released code can run out of candidates), and a step uses the distances
    of the previous step, so that all ranks and micro-batches have the same mapping.
    """

    kind: Literal["learned"] = "learned"
    layers: tuple[int, ...] | None = None
    """teacher layers; null: four at each quarter of the depth, such as 3, 6, 9 and 12 of 12"""
    maps: Literal["none", "shared"] = "shared"
    """linear projections of the student's states, initially the identity: ``none``, or ``shared``, one for all"""


LayerMapping = FixedLayerMapping | LearnedLayerMapping


def teacher_layers(mapping: LayerMapping, depth: int) -> tuple[int, ...]:
    """Return the hidden states of the teacher that take part in distillation, in ascending order.

    Raises:
        ConfigError: A listed layer does not exist, or is listed twice.
    """
    if mapping.layers is None:
        interval_count = 3 if isinstance(mapping, FixedLayerMapping) else min(4, depth)
        # A set, since a shallow model has fewer states: 0, 1, 1, 2 at a depth of 2.
        layers = tuple(sorted({round(depth * i / interval_count) for i in range(interval_count + 1)}))
        return layers if isinstance(mapping, FixedLayerMapping) else layers[1:]
    # A learned mapping pairs outputs of layers, and state 0 is the input of the first layer.
    first = 0 if isinstance(mapping, FixedLayerMapping) else 1
    invalid_layers = [layer for layer in mapping.layers if not first <= layer <= depth]
    if invalid_layers or len(set(mapping.layers)) < len(mapping.layers) or not mapping.layers:
        raise ConfigError(
            f"distill.pairing.layers: got {list(mapping.layers)}, expected distinct numbers from {first} to "
            f"{depth}, the depth of this model."
        )
    return tuple(sorted(mapping.layers))


def match_layers(distances: Tensor, teacher: Sequence[int], is_open: Sequence[bool]) -> tuple[int, ...]:
    """Return the student layer of each teacher layer.

    Example: the teacher layers 3 and 6 and a student of six layers, where layer 6 has no attention block left. Row 1,
    teacher layer 6, has the candidates 2 to 6, since one layer must stay free below for row 0. Layers 2 to 5 are open,
    and the nearest, say 4, is taken. Row 0 then has the candidates 1 to 3. Column k of `distances` belongs to the
    hidden state k + 1, because state 0 is the input of the first layer.

    Args:
        distances: (teacher layers, student layers), distance between the hidden state of each teacher layer and the
            output of each student layer.
        teacher: Teacher layers in ascending order.
        is_open: Whether the attention block of each student layer is open.

    Returns:
        Hidden states of the student, one for each teacher layer, ascending and distinct.
    """
    depth = distances.shape[1]
    matched_layers: list[int] = []
    upper_limit = depth + 1
    for row in reversed(range(len(teacher))):
        # `row` teacher layers remain, and each needs a student layer below this one. Layers with open blocks come
        # first, unless no candidate has one; equal distances go to the higher layer.
        candidates = range(row + 1, upper_limit)
        preferred = [layer for layer in candidates if is_open[layer - 1]] or list(candidates)
        upper_limit = min(preferred, key=lambda layer: (float(distances[row, layer - 1]), -layer))
        matched_layers.append(upper_limit)
    return tuple(reversed(matched_layers))


class StudentProjections(nn.Module):
    """Linear projections from student to teacher states, initially the identity."""

    def __init__(self, kind: ProjectionKind, layers: Sequence[int], width: int) -> None:
        """
        Args:
            kind: No projection, one for state 0 and one for all later states, or one for each state.
            layers: Hidden states of the teacher.
            width: Dimension of the hidden states.
        """
        super().__init__()
        self.kind = kind
        # Distinct names in order, such as input and layers for a shared projection.
        names = dict.fromkeys(self.projection_name(layer) for layer in layers)
        self.maps = nn.ModuleDict({name: _identity_linear(width) for name in names if name})

    def projection_name(self, layer: int) -> str:
        """Return the name of the projection for a teacher layer; an empty string without projections."""
        if self.kind == "none":
            return ""
        if self.kind == "each":
            return str(layer)
        return "input" if layer == 0 else "layers"

    def forward(self, state: Tensor, layer: int) -> Tensor:
        """Return a student state projected for a teacher layer: (B, T, D) -> (B, T, D)."""
        name = self.projection_name(layer)
        mapped: Tensor = self.maps[name](state) if name else state  # (B, T, D)
        return mapped


def _identity_linear(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(width))
        linear.bias.zero_()
    return linear
