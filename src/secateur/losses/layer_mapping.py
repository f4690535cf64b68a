"""Which hidden state of the student imitates which of the teacher, and the maps between them."""

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
    """Each listed hidden state imitates the teacher's of the same number (0 is the input of the first layer)."""

    kind: Literal["fixed"] = "fixed"
    layers: tuple[int, ...] | None = None
    """None: 0 and three more, a third of the depth apart, the last among them"""
    maps: ProjectionKind = "none"
    """linear maps on the student's side, the identity at first: ``none``; ``shared``, one for 0 and one for all
    others, as in DPHuBERT; ``each``, one for every pair"""


@dataclass(frozen=True, kw_only=True)
class LearnedLayerMapping:
    """Teacher layers choose the nearest student layer, from the top down (CoFi, arXiv 2204.00408, section 3.2).

    A teacher layer takes the student layer of least distance strictly below the one taken before, among those whose
    attention block is open. Differs from the released code: enough layers are left for the teacher layers still to
    come (their code can run out of candidates), and the match of a step is made from the distances of the step
    before, so that every rank and micro-batch makes the same.
    """

    kind: Literal["learned"] = "learned"
    layers: tuple[int, ...] | None = None
    """the teacher's; None: four, a quarter of the depth apart, the last among them"""
    maps: Literal["none", "shared"] = "shared"


LayerMapping = FixedLayerMapping | LearnedLayerMapping


def teacher_layers(pairing: LayerMapping, depth: int) -> tuple[int, ...]:
    """Hidden states of the teacher that are imitated, ascending.

    Raises:
        ConfigError: One of them does not exist, or is listed twice.
    """
    if pairing.layers is None:
        interval_count = 3 if isinstance(pairing, FixedLayerMapping) else min(4, depth)
        layers = tuple(sorted({round(depth * i / interval_count) for i in range(interval_count + 1)}))
        return layers if isinstance(pairing, FixedLayerMapping) else layers[1:]
    first = 0 if isinstance(pairing, FixedLayerMapping) else 1
    invalid_layers = [layer for layer in pairing.layers if not first <= layer <= depth]
    if invalid_layers or len(set(pairing.layers)) < len(pairing.layers) or not pairing.layers:
        raise ConfigError(
            f"distill.pairing.layers: got {list(pairing.layers)}, allowed are different numbers from {first} to "
            f"{depth}, the depth of this model."
        )
    return tuple(sorted(pairing.layers))


def match_layers(distances: Tensor, teacher: Sequence[int], is_open: Sequence[bool]) -> tuple[int, ...]:
    """The student layer of each teacher layer.

    Args:
        distances: (teacher layers, student layers): between teacher layer i and the output of student layer k + 1.
        teacher: Teacher layers, ascending.
        is_open: For each student layer, whether its attention block is open.

    Returns:
        For each teacher layer the student's hidden state, ascending and all different.
    """
    depth = distances.shape[1]
    matched_layers: list[int] = []
    upper_limit = depth + 1
    for row in reversed(range(len(teacher))):
        # `row` teacher layers are still to come, and each needs a layer of its own below this one.
        candidates = range(row + 1, upper_limit)
        preferred = [layer for layer in candidates if is_open[layer - 1]] or list(candidates)
        upper_limit = min(preferred, key=lambda layer: (float(distances[row, layer - 1]), -layer))
        matched_layers.append(upper_limit)
    return tuple(reversed(matched_layers))


class StudentProjections(nn.Module):
    """Linear maps from student to teacher states, the identity at first."""

    def __init__(self, kind: ProjectionKind, layers: Sequence[int], width: int) -> None:
        """
        Args:
            kind: None, one for state 0 and one for all others, or one each.
            layers: Hidden states that are imitated.
            width: Model width.
        """
        super().__init__()
        self.kind = kind
        names = dict.fromkeys(self.projection_name(layer) for layer in layers)
        self.maps = nn.ModuleDict({name: _identity_linear(width) for name in names if name})

    def projection_name(self, layer: int) -> str:
        """The name of the map for the teacher's layer; empty where there is none."""
        if self.kind == "none":
            return ""
        if self.kind == "each":
            return str(layer)
        return "input" if layer == 0 else "layers"

    def forward(self, state: Tensor, layer: int) -> Tensor:
        """The state mapped for the teacher's layer: (B, T, D) -> (B, T, D)."""
        name = self.projection_name(layer)
        mapped: Tensor = self.maps[name](state) if name else state
        return mapped


def _identity_linear(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(width))
        linear.bias.zero_()
    return linear
