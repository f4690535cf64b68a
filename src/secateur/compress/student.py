"""The student of a learn phase: a model with masks in it, which can become smaller while it learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.compress.regularise import carry_over
from secateur.masking import attach
from secateur.masking.attach import base_of
from secateur.masking.parts import Parts
from secateur.structure import Selection, Structure
from secateur.surgery.cut import cut
from secateur.surgery.slices import Slices


class Student:
    """A model with masks attached.

    Masks are given for all units of the structure that it began with, also when it has become smaller since.
    """

    def __init__(self, model: PreTrainedModel, structure: Structure, *, static: bool = False) -> None:
        """
        Args:
            model: The model, with or without a task head; changed in place.
            structure: Its own, or that of its encoder alone, where nothing of a transducer's head is pruned.
            static: As `attach` takes it.
        """
        self.original, self.static = structure, static
        # Weight norm has one magnitude for all units: what is cut off would change how the others learn.
        shared = [bind for weight in structure.weights if weight.magnitude for bind in weight.binds]
        self.whole = frozenset(name for bind in shared for name in bind.axes)
        self._take(model, structure)

    def _take(self, model: PreTrainedModel, structure: Structure) -> None:
        self.model, self.structure = model, structure
        self.masking = attach(model, structure, static=self.static)
        axes, offsets = self.original.axes, self.original.offsets
        self.units = torch.tensor(
            [
                offsets[axis.name] + axes[axis.name].units.index(unit)
                for axis in structure.axes.values()
                for unit in axis.units
            ]
        )

    @property
    def base(self) -> nn.Module:
        """The encoder."""
        return base_of(self.model)

    @property
    def parameters(self) -> int:
        """How many parameters the encoder has."""
        return sum(parameter.numel() for parameter in self.base.parameters())

    def own(self, values: Tensor) -> Tensor:
        """What is given for all units, for those that the model has: (all units,) -> (units,)."""
        return values[self.units.to(values.device)]

    def spread(self, values: Tensor) -> Tensor:
        """The reverse, zero for units that it lacks: (units,) -> (all units,)."""
        return values.new_zeros(self.original.size).index_copy(0, self.units.to(values.device), values)

    def stays(self, kept: Tensor) -> Tensor:
        """Which units a student has without those that are not kept: some axes stay whole; (all units,) of booleans."""
        out = kept.clone()
        for name in self.whole:
            start = self.original.offsets[name]
            out[start : start + self.original.axes[name].size] = True
        return out

    def shrink(self, kept: Tensor, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Go on without some units.

        The masks of these have been zero for good, so that what is left computes and learns the same.

        Args:
            kept: Whether each unit is left: (all units,) of booleans, closed.
            optimiser: That of the weights; it goes on with the smaller parameters and what is left of their moments.
        """
        before = self.model
        self.masking.remove()
        # What is factorised stays so: its ranks are not decided yet.
        small = cut(before, selection_of(self.structure, self.own(self.stays(kept))), break_even=False)
        structure = declare(small.config) if self.original.head else declare(small.config).without_head
        carry_over(before, small)
        if optimiser is not None:
            _follow(optimiser, Parts(before, self.structure), small, Slices(self.structure, structure))
        self._take(small, structure)


def selection_of(structure: Structure, kept: Tensor) -> Selection:
    """The kept units of a structure, (units,) of booleans, as a selection."""
    flags = kept.tolist()
    return Selection(
        axes={
            name: tuple(sorted(unit for at, unit in enumerate(axis.units, structure.offsets[name]) if flags[at]))
            for name, axis in structure.axes.items()
        }
    )


def _follow(optimiser: torch.optim.Optimizer, parts: Parts, small: PreTrainedModel, slices: Slices) -> None:
    """Put a cut model's parameters in the place of those of the model before, with what is left of their state."""
    ours = {id(parameter): name for name, parameter in parts.parameters().items()}
    after = dict(small.named_parameters())
    new = {id(parameter): after.get(name) for name, parameter in parts.model.named_parameters()}

    def moved(state: Tensor, old: Tensor) -> Tensor:
        return slices.of(ours[id(old)], state) if state.shape == old.shape and id(old) in ours else state

    for group in optimiser.param_groups:
        params = []
        for old in group["params"]:
            if id(old) not in new:  # no part of the model
                params.append(old)
                continue
            states = optimiser.state.pop(old, {})
            parameter = new[id(old)]
            if parameter is None:
                continue
            params.append(parameter)
            if states:
                optimiser.state[parameter] = {
                    name: moved(state, old) if isinstance(state, Tensor) else state for name, state in states.items()
                }
        group["params"] = params
