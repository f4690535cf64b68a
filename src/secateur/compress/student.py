"""The student of a learn phase: a model with masks in it, which can become smaller while it learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.compress.regularization import copy_training_state
from secateur.hf.model_view import ModelView
from secateur.masking import attach
from secateur.masking.parameter_view import ParameterView
from secateur.structure import Selection, Structure
from secateur.surgery.cut import cut_view
from secateur.surgery.importance import squared_norms
from secateur.surgery.slices import WeightSlicer


class Student:
    """A model with masks attached.

    Masks are given for all units of the structure that it began with, also when it has become smaller since.
    """

    def __init__(self, view: ModelView, structure: Structure, *, static: bool = False) -> None:
        """
        Args:
            view: The model, with or without a task head; changed in place.
            structure: Its own, or that of its encoder alone, where nothing of a transducer's head is pruned.
            static: As `attach` takes it.
        """
        self.original_structure, self.static = structure, static
        # Weight norm has one magnitude for all units: what is cut off would change how the others learn.
        magnitude_bindings = [bind for weight in structure.weights if weight.magnitude for bind in weight.bindings]
        self.uncut_axes = frozenset(name for bind in magnitude_bindings for name in bind.axes)
        self._attach_masks(view, structure)

    def _attach_masks(self, view: ModelView, structure: Structure) -> None:
        self.view, self.structure = view, structure
        # Masks rename what they are on, so that the names of the structure are looked up before.
        self.parameters = ParameterView(view, structure).parameters()
        self.masking = attach(view, structure, static=self.static)
        axes, offsets = self.original_structure.axes, self.original_structure.offsets
        self.units = torch.tensor(
            [
                offsets[axis.name] + axes[axis.name].units.index(unit)
                for axis in structure.axes.values()
                for unit in axis.units
            ]
        )

    @property
    def model(self) -> PreTrainedModel:
        """The model with masks, with or without a task head."""
        return self.view.model  # type: ignore[no-any-return]

    @property
    def base(self) -> nn.Module:
        """The encoder."""
        return self.view.encoder  # type: ignore[no-any-return]

    @property
    def parameter_count(self) -> int:
        """How many parameters the encoder has."""
        return sum(parameter.numel() for parameter in self.base.parameters())

    def squared_norms(self) -> Tensor:
        """Return the squared 2-norm of the weights of each unit, zero for units that are gone: (all units,)."""
        return self.to_all_units(squared_norms(self.parameters, self.structure))

    def to_student_units(self, values: Tensor) -> Tensor:
        """What is given for all units, for those that the model has: (all units,) -> (units,)."""
        return values[self.units.to(values.device)]

    def to_all_units(self, values: Tensor) -> Tensor:
        """The reverse, zero for units that it lacks: (units,) -> (all units,)."""
        return values.new_zeros(self.original_structure.size).index_copy(0, self.units.to(values.device), values)

    def remaining_units(self, kept_units: Tensor) -> Tensor:
        """Which units a student has without those that are not kept: some axes stay whole; (all units,) of booleans."""
        remaining = kept_units.clone()
        for name in self.uncut_axes:
            start = self.original_structure.offsets[name]
            remaining[start : start + self.original_structure.axes[name].size] = True
        return remaining

    def shrink(self, kept_units: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Go on without some units.

        The masks of these have been zero for good, so that what is left computes and learns the same.

        Args:
            kept: Whether each unit is left: (all units,) of booleans, closed.
            optimiser: That of the weights; it goes on with the smaller parameters and what is left of their moments.
        """
        previous_view = self.view
        self.masking.remove()
        # What is factorised stays so: its ranks are not decided yet.
        smaller_view = cut_view(
            previous_view,
            selection_of(self.structure, self.to_student_units(self.remaining_units(kept_units))),
            break_even=False,
        )
        structure = smaller_view.structure
        structure = structure if self.original_structure.head else structure.without_head
        copy_training_state(previous_view, smaller_view)
        if optimizer is not None:
            _replace_parameters(
                optimizer,
                ParameterView(previous_view, self.structure),
                smaller_view.model,
                WeightSlicer(self.structure, structure),
            )
        self._attach_masks(smaller_view, structure)


def selection_of(structure: Structure, kept_units: Tensor) -> Selection:
    """The kept units of a structure, (units,) of booleans, as a selection."""
    flags = kept_units.tolist()
    return Selection(
        axes={
            name: tuple(sorted(unit for index, unit in enumerate(axis.units, structure.offsets[name]) if flags[index]))
            for name, axis in structure.axes.items()
        }
    )


def _replace_parameters(
    optimizer: torch.optim.Optimizer, parts: ParameterView, small: PreTrainedModel, slices: WeightSlicer
) -> None:
    """Put a cut model's parameters in the place of those of the model before, with what is left of their state."""
    parameter_names = {id(parameter): name for name, parameter in parts.parameters().items()}
    cut_parameters = dict(small.named_parameters())
    replacements = {id(parameter): cut_parameters.get(name) for name, parameter in parts.model.named_parameters()}

    def sliced_state(state: Tensor, old: Tensor) -> Tensor:
        return (
            slices.extract(parameter_names[id(old)], state)
            if state.shape == old.shape and id(old) in parameter_names
            else state
        )

    for group in optimizer.param_groups:
        params = []
        for old in group["params"]:
            if id(old) not in replacements:  # no part of the model
                params.append(old)
                continue
            states = optimizer.state.pop(old, {})
            parameter = replacements[id(old)]
            if parameter is None:
                continue
            params.append(parameter)
            if states:
                optimizer.state[parameter] = {
                    name: sliced_state(state, old) if isinstance(state, Tensor) else state
                    for name, state in states.items()
                }
        group["params"] = params
