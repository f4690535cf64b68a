"""Masks in a model: parametrizations of weights, norms over the unmasked units, bypassed layers.

While masks are attached, norms across an axis and masked LSTMs are replaced by classes of `secateur.nn` with the same
parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.hf.model_view import ModelView
from secateur.masking.mask_placement import MaskParametrization, choose_placement
from secateur.masking.mask_sites import compile_mask_factors, compile_output_factors
from secateur.masking.parameter_view import ParameterView
from secateur.nn.lstm import UnevenLSTM
from secateur.nn.norm import SupportLayerNorm
from secateur.structure import Structure


class Masking:
    """Masks attached to a model.

    Use `set` to choose the mask values before forward passes, and `remove` to restore the model. The model keeps its
    class and its parameters; `values` is one flat vector over all units of all axes.
    """

    def __init__(self, structure: Structure, *, static: bool) -> None:
        self.structure = structure
        self.static = static
        self.values: Tensor | None = None
        self._norms: list[tuple[SupportLayerNorm, slice]] = []
        self._swapped_modules: list[tuple[nn.Module, str, nn.Module]] = []
        self._parametrized: list[tuple[nn.Module, str]] = []
        self._hooks: list[Any] = []
        self._trimmed_units: frozenset[int] = frozenset()

    def set(self, values: Tensor | None) -> None:
        """Set the mask values for the next forward passes, or None to disable masking.

        Args:
            values: (units,), a leaf. Gradients reach the vector through masked weights and outputs, but not through the
                support of norms.
        """
        self.values = values
        for norm, units in self._norms:
            support = None if values is None else (values.detach()[units] != 0)
            is_unmasked = support is None or (not self.static and bool(support.all()))
            norm.support = None if is_unmasked else support
        # Position of each whole layer in `values`, such as [0, 37, 74] for three layers of 37 units each.
        layers = [self.structure.offsets[axis.name] for axis in self.structure.axes_of_kinds(("layer",)) if axis.size]
        layer_values = [] if values is None else values.detach()[layers].tolist()
        self._trimmed_units = frozenset(unit for unit, value in zip(layers, layer_values, strict=False) if value == 0.0)

    def _swap(self, parent: nn.Module, name: str, replacement: nn.Module) -> None:
        """Replace a stock module until `remove` by a module that shares the parameters."""
        self._swapped_modules.append((parent, name, getattr(parent, name)))
        setattr(parent, name, replacement)

    def is_trimmed(self, unit: int) -> bool:
        """Return whether the mask of a whole layer is zero."""
        return unit in self._trimmed_units

    def remove(self) -> None:
        """Restore the original modules, with the present values of the parameters."""
        for module, name in self._parametrized:
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        for parent, name, stock in self._swapped_modules:
            setattr(parent, name, stock)
            if isinstance(stock, nn.LSTM):
                stock.flatten_parameters()  # it may have been moved to another device meanwhile
        for hook in self._hooks:
            hook.remove()
        self._parametrized, self._swapped_modules, self._norms, self._hooks = [], [], [], []
        self.set(None)


def attach(model: nn.Module | ModelView, structure: Structure, *, static: bool = False) -> Masking:
    """Attach masks to a model, with no mask set yet.

    Args:
        model: The model that `structure` was declared from, or its encoder alone where the structure has no head;
            changed in place until `Masking.remove`.
        structure: The structure.
        static: Whether norms take the same branch for every mask, as compiled code requires. Otherwise a norm without
            masked units is computed by the stock norm, bit for bit.
    """
    view = ParameterView(ModelView.of(model), structure)
    masking = Masking(structure, static=static)
    parametrizations: dict[str, dict[str, MaskParametrization]] = {}
    for name, factor in compile_mask_factors(structure).items():
        path, _, parameter = name.rpartition(".")
        if isinstance(lstm := view.module(path), nn.LSTM):
            masking._swap(*view.parent_of(path), UnevenLSTM.from_lstm(lstm))
        module = view.module(path)
        parametrization = parametrizations.setdefault(path, {})[parameter] = MaskParametrization(masking, factor)
        parametrize.register_parametrization(module, parameter, parametrization)
        masking._parametrized.append((module, parameter))
    for path, parameters in parametrizations.items():
        module = view.module(path)
        placement = choose_placement(module, parameters)
        if placement is not None:
            masking._hooks.append(module.register_forward_pre_hook(placement.pre_forward_hook))
            masking._hooks.append(module.register_forward_hook(placement.forward_hook, always_call=True))
    for path, factor in compile_output_factors(structure).items():
        hook = MaskParametrization(masking, factor).mask_output
        masking._hooks.append(view.module(path).register_forward_hook(hook))
    for norm in structure.norms:
        stock = view.module(norm.module)
        assert isinstance(stock, nn.LayerNorm)
        support_norm = SupportLayerNorm.from_norm(stock)
        masking._swap(*view.parent_of(norm.module), support_norm)
        start = structure.offsets[norm.axis]
        masking._norms.append((support_norm, slice(start, start + structure.axes[norm.axis].size)))
    for axis in structure.axes_of_kinds(("layer",)):
        if axis.size:
            layer = view.module(axis.path)
            bypass = partial(_bypass_layer, masking, structure.offsets[axis.name])
            masking._hooks.append(layer.register_forward_hook(bypass, prepend=True))
    return masking


def has_masks(model: nn.Module) -> bool:
    """Return whether a model has masks attached."""
    return any(isinstance(module, MaskParametrization) for module in model.modules())


def _bypass_layer(masking: Masking, layer_unit: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return the input of a masked layer in place of the output.

    This forward hook is a module-level function, because a closure would not be copied with the model.
    """
    if not masking.is_trimmed(layer_unit):
        return None
    return replace_hidden_state(output, inputs[0])


def replace_hidden_state(output: Any, state: Any) -> Any:
    """Return a layer's output with the hidden state, (B, T, D), replaced and the remaining values unchanged."""
    return (state, *output[1:]) if isinstance(output, tuple) else state
