"""The side that a mask is multiplied in on: the weight, or the activation that meets it, whichever is smaller."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.masking.taps import Factor


class Tapped(nn.Module):
    """The parametrisation of one tapped parameter, which stands aside while the mask is on an activation.

    Its `hook` does the same to what a module gives.
    """

    def __init__(self, masking: Any, factor: Factor) -> None:
        """
        Args:
            masking: Whose `values` are the mask.
            factor: What it puts on the parameter.
        """
        super().__init__()
        self.masking = masking
        self.factor = factor
        self.aside = False

    def forward(self, weight: Tensor) -> Tensor:
        if self.masking.values is None or self.aside:
            return weight
        return weight * self.factor_like(weight, weight.dim())

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The masked output of a module."""
        masked: Tensor = self(output)
        return masked

    def factor_like(self, other: Tensor, rank: int) -> Tensor:
        """The factor on the device and in the dtype of another tensor, shaped as `Factor.of` shapes it."""
        values: Tensor = self.masking.values
        if self.factor.units.device != values.device:
            self.factor = self.factor.to(values.device)
        return self.factor.of(values, rank).to(other.dtype)


class Sides:
    """Hooks of a linear map or convolution that put its mask on its input or output where that moves fewer bytes.

    Masked weights and masked activations are the same product, (x m) W = x (m W), so the choice is one of sizes alone
    and is made anew in every forward pass. Where stock code reads a weight without calling its module, as WavLM's
    attention does, the hooks are never called and the mask stays on the weight.
    """

    def __init__(self, weight: Tapped, bias: Tapped | None) -> None:
        """
        Args:
            weight: Of the module's weight, tapped along its inputs (dimension 1) or its outputs (dimension 0).
            bias: Of its bias, tapped like the outputs; None where the weight is tapped along its inputs, or there is no
                bias.
        """
        self.weight = weight
        self.tapped = (weight,) if bias is None else (weight, bias)
        self.inputs = weight.factor.dim == 1

    def before(self, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Decide, and mask the input."""
        values, matrix = inputs[0], module.parametrizations.weight.original
        if self.weight.masking.values is None:
            return None
        moved = values.numel() if self.inputs else values.numel() // matrix.shape[1] * matrix.shape[0]
        if moved * values.element_size() >= matrix.numel() * matrix.element_size():
            return None
        for tapped in self.tapped:
            tapped.aside = True
        return (self._masked(values, matrix.dim()), *inputs[1:]) if self.inputs else None

    def after(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Mask the output."""
        if not self.weight.aside:
            return None
        for tapped in self.tapped:
            tapped.aside = False
        return None if self.inputs else self._masked(output, module.parametrizations.weight.original.dim())

    def _masked(self, values: Tensor, rank: int) -> Tensor:
        """(B, T, features), or (B, features, T) of a convolution, times the mask of its features."""
        factor = self.weight.factor_like(values, rank).flatten()
        return values * (factor if rank == 2 else factor[:, None])


def sides_of(module: nn.Module, tapped: dict[str, Tapped]) -> Sides | None:
    """The hooks for a module, given its tapped parameters by name; None where its mask can only be on its weight."""
    weight, bias = tapped.get("weight"), tapped.get("bias")
    simple = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.groups == 1)
    if weight is None or not simple:
        return None
    if weight.factor.dim == 1 or (weight.factor.dim == 0 and module.bias is None):
        return Sides(weight, None)  # what else is tapped along the bias stays there
    if weight.factor.dim == 0 and bias is not None and bias.factor.units.equal(weight.factor.units):
        return Sides(weight, bias)
    return None
