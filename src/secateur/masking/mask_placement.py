"""The side that a mask is multiplied in on: the weight, or the activation that meets it, whichever is smaller."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.masking.mask_sites import MaskFactor


class MaskParametrization(nn.Module):
    """The parametrisation of one tapped parameter, which stands aside while the mask is on an activation.

    Its `hook` does the same to what a module gives.
    """

    def __init__(self, masking: Any, factor: MaskFactor) -> None:
        """
        Args:
            masking: Whose `values` are the mask.
            factor: What it puts on the parameter.
        """
        super().__init__()
        self.masking = masking
        self.factor = factor
        self.is_bypassed = False

    def forward(self, weight: Tensor) -> Tensor:
        if self.masking.values is None or self.is_bypassed:
            return weight
        return weight * self.factor_for(weight, weight.dim())

    def mask_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The masked output of a module."""
        masked: Tensor = self(output)
        return masked

    def factor_for(self, tensor: Tensor, rank: int) -> Tensor:
        """The factor on the device and in the dtype of another tensor, shaped as `Factor.of` shapes it."""
        values: Tensor = self.masking.values
        if self.factor.units.device != values.device:
            self.factor = self.factor.to(values.device)
        return self.factor.broadcast(values, rank).to(tensor.dtype)


class MaskPlacement:
    """Hooks of a linear map or convolution that put its mask on its input or output where that moves fewer bytes.

    Masked weights and masked activations are the same product, (x m) W = x (m W), so the choice is one of sizes alone
    and is made anew in every forward pass. Where stock code reads a weight without calling its module, as WavLM's
    attention does, the hooks are never called and the mask stays on the weight.
    """

    def __init__(self, weight: MaskParametrization, bias: MaskParametrization | None) -> None:
        """
        Args:
            weight: Of the module's weight, tapped along its inputs (dimension 1) or its outputs (dimension 0).
            bias: Of its bias, tapped like the outputs; None where the weight is tapped along its inputs, or there is no
                bias.
        """
        self.weight = weight
        self.parametrizations = (weight,) if bias is None else (weight, bias)
        self.inputs = weight.factor.dim == 1

    def pre_forward_hook(self, module: Any, masks_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Decide, and mask the input."""
        values, original = masks_inputs[0], module.parametrizations.weight.original
        if self.weight.masking.values is None:
            return None
        mask_elements = values.numel() if self.inputs else values.numel() // original.shape[1] * original.shape[0]
        if mask_elements * values.element_size() >= original.numel() * original.element_size():
            return None
        for parametrization in self.parametrizations:
            parametrization.is_bypassed = True
        return (self._apply_mask(values, original.dim()), *masks_inputs[1:]) if self.inputs else None

    def forward_hook(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Mask the output."""
        if not self.weight.is_bypassed:
            return None
        for parametrization in self.parametrizations:
            parametrization.is_bypassed = False
        return None if self.inputs else self._apply_mask(output, module.parametrizations.weight.original.dim())

    def _apply_mask(self, values: Tensor, rank: int) -> Tensor:
        """(B, T, features), or (B, features, T) of a convolution, times the mask of its features."""
        factor = self.weight.factor_for(values, rank).flatten()
        return values * (factor if rank == 2 else factor[:, None])


def choose_placement(module: nn.Module, parametrizations: dict[str, MaskParametrization]) -> MaskPlacement | None:
    """The hooks for a module, given its tapped parameters by name; None where its mask can only be on its weight."""
    weight, bias = parametrizations.get("weight"), parametrizations.get("bias")
    is_supported = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.groups == 1)
    if weight is None or not is_supported:
        return None
    if weight.factor.dim == 1 or (weight.factor.dim == 0 and module.bias is None):
        return MaskPlacement(weight, None)  # what else is tapped along the bias stays there
    if weight.factor.dim == 0 and bias is not None and bias.factor.units.equal(weight.factor.units):
        return MaskPlacement(weight, bias)
    return None
