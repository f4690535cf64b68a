"""The student of a learn phase: a model with masks that can become smaller in the course of learning."""

from __future__ import annotations

from typing import Any

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

    Two index spaces occur. `(all units,)` counts the units of the structure at the start, which gates and costs use;
    `(units,)` counts the units that are left. Example: of six units the units 1 and 4 have been removed::

        all units   0  1  2  3  4  5
        units       0     1  2     3        self.units = (0, 2, 3, 5)
    """

    def __init__(self, view: ModelView, structure: Structure, *, static: bool = False) -> None:
        """
        Args:
            view: The model, with or without a task head; changed in place.
            structure: The structure of the model, or of the encoder alone if the head of a transducer is not pruned.
            static: Passed on to `attach`.
        """
        self.original_structure = structure
        self.static = static
        # The magnitude of a weight norm is shared by all units: removing units would change how the rest learns.
        magnitude_bindings = [bind for weight in structure.weights if weight.magnitude for bind in weight.bindings]
        self.uncut_axes = frozenset(name for bind in magnitude_bindings for name in bind.axes)
        self._attach_masks(view, structure)

    def _attach_masks(self, view: ModelView, structure: Structure) -> None:
        self.view = view
        self.structure = structure
        # Masks rename parameters, so the parameters are looked up by their names in the structure before.
        self.parameters = ParameterView(view, structure).parameters()
        self.masking = attach(view, structure, static=self.static)
        axes = self.original_structure.axes
        offsets = self.original_structure.offsets
        indices: list[int] = []
        for axis in structure.axes.values():
            original_units = axes[axis.name].units
            # Example: original units (0, 1, 2) at offset 10, of which 0 and 2 are left, give 10 and 12.
            indices += [offsets[axis.name] + original_units.index(unit) for unit in axis.units]
        self.units = torch.tensor(indices)

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
        """The number of parameters of the encoder."""
        return sum(parameter.numel() for parameter in self.base.parameters())

    def squared_norms(self) -> Tensor:
        """Return the squared 2-norm of the weights of each unit, zero for removed units: (all units,)."""
        return self.to_all_units(squared_norms(self.parameters, self.structure))

    def to_student_units(self, values: Tensor) -> Tensor:
        """Return the values of the units that the model has: (all units,) -> (units,)."""
        return values[self.units.to(values.device)]

    def to_all_units(self, values: Tensor) -> Tensor:
        """Return values for all units, zero for removed units: (units,) -> (all units,)."""
        return values.new_zeros(self.original_structure.size).index_copy(0, self.units.to(values.device), values)

    def remaining_units(self, kept_units: Tensor) -> Tensor:
        """Return the units of a student cut to some kept units: (all units,) of booleans.

        The result includes `kept_units` and all units of the axes in `uncut_axes`.
        """
        remaining = kept_units.clone()
        for name in self.uncut_axes:
            start = self.original_structure.offsets[name]
            remaining[start : start + self.original_structure.axes[name].size] = True
        return remaining

    def shrink(self, kept_units: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Cut the model to some kept units.

        The masks of the removed units are zero for good, so the smaller model computes and learns the same.

        Args:
            kept_units: Whether each unit is kept: (all units,) of booleans, a normalized selection.
            optimizer: Optimizer of the weights; gets the smaller parameters and the matching parts of the moments.
        """
        previous_view = self.view
        self.masking.remove()
        # Factorized maps stay factorized, even if a single matrix would be smaller: ranks may still close.
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
    """Return the kept units of a structure, (units,) of booleans, as a selection."""
    flags = kept_units.tolist()
    axes = {}
    for name, axis in structure.axes.items():
        start = structure.offsets[name]
        # `index` counts over all axes; `unit` is the number within the axis before any cut.
        axes[name] = tuple(sorted(unit for index, unit in enumerate(axis.units, start) if flags[index]))
    return Selection(axes=axes)


def _replace_parameters(
    optimizer: torch.optim.Optimizer, parts: ParameterView, small: PreTrainedModel, slices: WeightSlicer
) -> None:
    """Replace the parameters of an optimizer by the parameters of a cut model, and slice the optimizer state alike."""
    parameter_names = {id(parameter): name for name, parameter in parts.parameters().items()}
    cut_parameters = dict(small.named_parameters())
    replacements = {id(parameter): cut_parameters.get(name) for name, parameter in parts.model.named_parameters()}

    def slice_state(state: Any, dense: Tensor) -> Any:
        """Return the part of a moment for the kept units; a step count or a moment of an uncut parameter as is."""
        # The moments of Adam have the shape of the parameter, unlike the step count, ().
        has_units = isinstance(state, Tensor) and state.shape == dense.shape and id(dense) in parameter_names
        return slices.extract(parameter_names[id(dense)], state) if has_units else state

    for group in optimizer.param_groups:
        params = []
        for dense in group["params"]:
            if id(dense) not in replacements:  # not in the model, such as a projection of the distillation
                params.append(dense)
                continue
            # Popped, since an entry would keep the dense parameter in memory.
            states = optimizer.state.pop(dense, {})
            parameter = replacements[id(dense)]
            if parameter is None:  # cut off completely
                continue
            params.append(parameter)
            if states:
                optimizer.state[parameter] = {name: slice_state(state, dense) for name, state in states.items()}
        group["params"] = params
