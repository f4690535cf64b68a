"""Placement of a mask on the weight or on the activation, whichever has fewer elements."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.masking.mask_sites import MaskFactor


class MaskParametrization(nn.Module):
    """Parametrization that multiplies the mask into a parameter, unless the mask is on an activation instead.

    `mask_output` multiplies the mask into the output of a module.
    """

    def __init__(self, masking: Any, factor: MaskFactor) -> None:
        """
        Args:
            masking: The `Masking` whose `values` are the mask.
            factor: Index table from mask values to the elements of the parameter.
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
        """Return the masked output of a module."""
        masked: Tensor = self(output)
        return masked

    def factor_for(self, tensor: Tensor, rank: int) -> Tensor:
        """Return the factor in the dtype of a tensor, shaped by `MaskFactor.broadcast` for a rank."""
        values: Tensor = self.masking.values
        if self.factor.units.device != values.device:
            self.factor = self.factor.to(values.device)
        return self.factor.broadcast(values, rank).to(tensor.dtype)


class MaskPlacement:
    """Hooks of a linear map or convolution that apply the mask to an activation if the activation is smaller.

    Masked weights and masked activations give the same product, (x m) W = x (m W), so that the choice depends on sizes
    alone; it is made in every forward pass. Where stock code reads a weight without calling its module, as WavLM's
    attention does, the hooks are never called and the mask stays on the weight.
    """

    def __init__(self, weight: MaskParametrization, bias: MaskParametrization | None) -> None:
        """
        Args:
            weight: Parametrization of the weight, masked along the inputs (dimension 1) or the outputs (dimension 0).
            bias: Parametrization of the bias, with the mask of the outputs; None where the weight is masked along the
                inputs, or the module has no bias.
        """
        self.weight = weight
        self.parametrizations = (weight,) if bias is None else (weight, bias)
        self.inputs = weight.factor.dim == 1

    def pre_forward_hook(self, module: Any, masks_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Choose the placement, and mask the input where the mask goes onto the input."""
        values, original = masks_inputs[0], module.parametrizations.weight.original
        if self.weight.masking.values is None:
            return None
        # Elements of the activation that the mask would multiply: of the input, or of the output, whose number of
        # frames is the same: (B, T, in) has B T in elements, (B, T, out) has B T in / in * out.
        mask_elements = values.numel() if self.inputs else values.numel() // original.shape[1] * original.shape[0]
        if mask_elements * values.element_size() >= original.numel() * original.element_size():
            return None
        for parametrization in self.parametrizations:
            parametrization.is_bypassed = True
        return (self._apply_mask(values, original.dim()), *masks_inputs[1:]) if self.inputs else None

    def forward_hook(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Mask the output where `pre_forward_hook` chose the output."""
        if not self.weight.is_bypassed:
            return None
        for parametrization in self.parametrizations:
            parametrization.is_bypassed = False
        return None if self.inputs else self._apply_mask(output, module.parametrizations.weight.original.dim())

    def _apply_mask(self, values: Tensor, rank: int) -> Tensor:
        """Multiply (B, T, features), or (B, features, T) of a convolution, with the mask of the features."""
        factor = self.weight.factor_for(values, rank).flatten()
        # The weight of a linear map has rank 2, and features are the last dimension; of a convolution the second.
        return values * (factor if rank == 2 else factor[:, None])


def choose_placement(module: nn.Module, parametrizations: dict[str, MaskParametrization]) -> MaskPlacement | None:
    """Return the placement for a module with masked parameters, or None if only the weights can be masked."""
    weight, bias = parametrizations.get("weight"), parametrizations.get("bias")
    is_supported = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.groups == 1)
    if weight is None or not is_supported:
        return None
    if weight.factor.dim == 1 or (weight.factor.dim == 0 and module.bias is None):
        return MaskPlacement(weight, None)  # a mask on the bias, if any, stays on the bias
    if weight.factor.dim == 0 and bias is not None and bias.factor.units.equal(weight.factor.units):
        return MaskPlacement(weight, bias)
    return None
