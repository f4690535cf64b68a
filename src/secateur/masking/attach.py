"""Masks in a model: parametrisations at the taps, norms over living units, trimmed layers passed by.

Norms that an axis crosses and an LSTM with masks in it are of our classes meanwhile, with the same parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.masking.parts import Parts
from secateur.masking.sides import Tapped, sides_of
from secateur.masking.taps import compile_outputs, compile_taps
from secateur.modules.families import encoder_path
from secateur.modules.norm import SupportLayerNorm
from secateur.modules.transducer import Recurrent
from secateur.structure import Structure


class Masking:
    """The masks of one model: set `values`, run the model, `remove` when done.

    The model stays the stock one, with the parameters it had; `values` is one flat vector over all units of all axes.
    """

    def __init__(self, structure: Structure, *, static: bool) -> None:
        self.structure = structure
        self.static = static
        self.values: Tensor | None = None
        self._norms: list[tuple[SupportLayerNorm, slice]] = []
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []
        self._tapped: list[tuple[nn.Module, str]] = []
        self._hooks: list[Any] = []
        self._trimmed: frozenset[int] = frozenset()

    def set(self, values: Tensor | None) -> None:
        """Use a mask from now on; None for no mask.

        Args:
            values: (units,), a leaf. Gradients reach it through the taps; the norms' support carries none.
        """
        self.values = values
        for norm, units in self._norms:
            support = None if values is None else (values.detach()[units] != 0)
            alive = support is None or (not self.static and bool(support.all()))
            norm.support = None if alive else support
        layers = [self.structure.offsets[axis.name] for axis in self.structure.of_kinds(("layer",)) if axis.size]
        of_layers = [] if values is None else values.detach()[layers].tolist()
        self._trimmed = frozenset(unit for unit, value in zip(layers, of_layers, strict=False) if value == 0.0)

    def _swap(self, parent: nn.Module, name: str, ours: nn.Module) -> None:
        """Put a module of ours, which shares its parameters, into the place of a stock one until `remove`."""
        self._swapped.append((parent, name, getattr(parent, name)))
        setattr(parent, name, ours)

    def trimmed(self, unit: int) -> bool:
        """Whether the mask of a whole layer is zero."""
        return unit in self._trimmed

    def remove(self) -> None:
        """Give the model back as it was, with its parameters as they are now."""
        for module, name in self._tapped:
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        for parent, name, stock in self._swapped:
            setattr(parent, name, stock)
            if isinstance(stock, nn.LSTM):
                stock.flatten_parameters()  # it may have been moved to another device meanwhile
        for hook in self._hooks:
            hook.remove()
        self._tapped, self._swapped, self._norms, self._hooks = [], [], [], []
        self.set(None)


def attach(model: nn.Module, structure: Structure, *, static: bool = False) -> Masking:
    """Put masks into a model, none set yet.

    Args:
        model: The model that `structure` was declared from; changed in place until `Masking.remove`. Without its head
            where the structure has none of it.
        structure: Its structure.
        static: Whether norms take the same branch for every mask, as compiled code wants; else a norm of which all is
            alive is the stock one, bit for bit.
    """
    parts = Parts(model, structure)
    masking = Masking(structure, static=static)
    tapped: dict[str, dict[str, Tapped]] = {}
    for name, factor in compile_taps(structure).items():
        path, _, parameter = name.rpartition(".")
        if isinstance(lstm := parts.module(path), nn.LSTM):
            masking._swap(*parts.place(path), Recurrent.like(lstm))
        module = parts.module(path)
        mine = tapped.setdefault(path, {})[parameter] = Tapped(masking, factor)
        parametrize.register_parametrization(module, parameter, mine)
        masking._tapped.append((module, parameter))
    for path, parameters in tapped.items():
        module = parts.module(path)
        sides = sides_of(module, parameters)
        if sides is not None:
            masking._hooks.append(module.register_forward_pre_hook(sides.before))
            masking._hooks.append(module.register_forward_hook(sides.after, always_call=True))
    for path, factor in compile_outputs(structure).items():
        hook = Tapped(masking, factor).hook
        masking._hooks.append(parts.module(path).register_forward_hook(hook))
    for norm in structure.norms:
        stock = parts.module(norm.module)
        assert isinstance(stock, nn.LayerNorm)
        ours = SupportLayerNorm.like(stock)
        masking._swap(*parts.place(norm.module), ours)
        start = structure.offsets[norm.axis]
        masking._norms.append((ours, slice(start, start + structure.axes[norm.axis].size)))
    for axis in structure.of_kinds(("layer",)):
        if axis.size:
            layer = parts.module(axis.path)
            bypass = partial(_bypass, masking, structure.offsets[axis.name])
            masking._hooks.append(layer.register_forward_hook(bypass, prepend=True))
    return masking


def has_masks(model: nn.Module) -> bool:
    """Whether `attach` put masks into this model that were not removed."""
    return any(isinstance(module, Tapped) for module in model.modules())


def _bypass(masking: Masking, unit: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """The hook that hands a layer's input on when the layer is masked; a closure would not be copied with the model."""
    if not masking.trimmed(unit):
        return None
    return with_state(output, inputs[0])


def with_state(output: Any, state: Any) -> Any:
    """Return the output of a layer with another hidden state, (B, T, D), and all else that it gave."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def base_of(model: nn.Module) -> nn.Module:
    """The encoder of a Hugging Face model, without its task head."""
    return model.get_submodule(encoder_path(model))
