"""Linear layers and convolutions fused with an activation, by oneDNN where torch has the operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.nn.low_rank import FactorizedLinear
from secateur.nn.narrow_convolution import computes_in_bfloat16, is_narrow

Activation = Literal["none", "gelu"]

#: Rows of a block of a product: few enough for its input to stay in the cache, and enough to hide the cost of calls.
BLOCK_ROWS = 2048

#: Dtypes of the fused operators, with the allowed absolute difference from torch's unfused result.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-5}


@cache
def has_fused_ops(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether torch's fused oneDNN operators exist and are correct for a dtype.

    The operators are not part of torch's public interface, and some processors lack the instructions for bfloat16.
    """

    def ramp(*shape: int) -> Tensor:  # independent of random state, default dtype and default device
        return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float32, device="cpu").view(shape).to(dtype)

    ops = torch.ops.mkldnn
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            values, weight = ramp(2, 3), ramp(4, 3)
            image, kernel = ramp(1, 3, 1, 5), ramp(4, 3, 1, 2)
            packed = ops._reorder_linear_weight(weight, 2)
            product = ops._linear_pointwise(values, packed, None, "gelu", [], "none")
            conv = ops._convolution_pointwise(image, kernel, None, [0, 0], [1, 1], [1, 1], 1, "gelu", [], "none")
            is_close = partial(torch.allclose, atol=_TOLERANCE[dtype])
            return is_close(product, F.gelu(F.linear(values, weight))) and is_close(
                conv, F.gelu(F.conv2d(image, kernel))
            )
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False


def is_eager(values: Tensor) -> bool:
    """Return whether a tensor is computed eagerly on a CPU: not compiled or traced, without gradients and autocast."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    needs_grad = torch.is_grad_enabled() and values.requires_grad
    return values.device.type == "cpu" and not (is_traced or needs_grad or torch.is_autocast_enabled("cpu"))


def is_fused(values: Tensor) -> bool:
    """Return whether the fused operators accept a tensor."""
    return values.dtype in _TOLERANCE and is_eager(values) and has_fused_ops(values.dtype)


def linear_activation(values: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """Compute `F.linear` and the activation: (..., in) -> (..., out).

    In float32 torch computes products with another library than oneDNN, which is slower on many processors.
    """
    if is_fused(values):
        return fused_linear(values.contiguous(), weight, bias, activation)
    out = F.linear(values, weight, bias)
    return F.gelu(out) if activation == "gelu" else out


def fused_linear(values: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """Compute `linear_activation` by the fused operator, for contiguous values and weights packed by `pack` or not."""
    algorithm = "none" if activation == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, activation, [], algorithm)  # type: ignore[no-any-return]


def pack(weight: Tensor) -> Tensor:
    """Return weights, (out, in), in oneDNN's layout for products of `BLOCK_ROWS` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), BLOCK_ROWS)  # type: ignore[no-any-return]


def convolution(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: Activation = "none",
) -> Tensor:
    """Compute a convolution over time and the activation, channels last: (B, T, in) -> (B, T', out).

    Args:
        values: (B, T, in), contiguous.
        weight: (out, in / groups, 1, taps), in torch's channels-last memory format.
        bias: (out,) or None.
        stride: Stride in frames.
        padding: Frames of zeros on both sides.
        groups: Groups of channels.
        activation: Applied to the result.
    """
    taps = weight.shape[3]
    if is_narrow(in_channels=values.shape[2], groups=groups, taps=taps) and computes_in_bfloat16(values):
        float_arguments = values.float(), weight.float(), None if bias is None else bias.float()
        with torch.autocast("cpu", enabled=False):
            out = convolution(*float_arguments, stride=stride, padding=padding, groups=groups, activation=activation)
        return out.bfloat16()
    image = values.transpose(1, 2)[:, :, None]  # (B, in, 1, T): channels last without a copy
    conv_arguments = [0, padding], [1, stride], [1, 1]
    if is_fused(values):
        algorithm = "none" if activation == "gelu" else ""
        out = torch.ops.mkldnn._convolution_pointwise(
            image, weight, bias, *conv_arguments, groups, activation, [], algorithm
        )
    else:
        out = F.conv2d(image, weight, bias, stride=conv_arguments[1], padding=conv_arguments[0], groups=groups)
        out = F.gelu(out) if activation == "gelu" else out
    return out[:, :, 0].transpose(1, 2)


class CachedWeight:
    """Converted form of a module's weight, computed at the first use and after the weight has changed.

    The converted weight is no buffer: its layout may be unknown to the module's methods, and saving it is useless.
    """

    def __init__(self, convert: Callable[[Tensor], Tensor]) -> None:
        self._convert = convert
        self._source: Tensor | None = None
        self._converted: Tensor | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the converted form of a weight."""
        converted = self._converted
        if converted is None or self._source is not weight:
            with torch.inference_mode(False), torch.no_grad():
                converted = self._convert(weight)
            self._source, self._converted = weight, converted
        return converted

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedWeight, (self._convert,)  # a copy converts anew


def channels_last(weight: Tensor) -> Tensor:
    """Return the weight of a Conv1d for `convolution`: (out, in, taps) -> (out, in, 1, taps)."""
    return weight.detach()[:, :, None].contiguous(memory_format=torch.channels_last)


class FusedLinear(nn.Module):
    """Frozen linear layer with an activation."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> None:
        """
        Args:
            weight: (out, in).
            bias: (out,) or None.
            activation: Applied to the result.
        """
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().contiguous())
        self.activation: Activation = activation

    @classmethod
    def like(cls, stock: nn.Linear, activation: Activation = "none") -> FusedLinear:
        """Return the frozen form of a linear layer, with shared weights."""
        return cls(stock.weight, stock.bias, activation)

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer, (..., in) -> (..., out)."""
        return linear_activation(values, self.weight, self.bias, self.activation)


def fuse_linear(layer: nn.Module, activation: Activation = "none") -> nn.Module:
    """Return the frozen form of a linear or factorized layer, with an activation."""
    if isinstance(layer, FactorizedLinear):
        return nn.Sequential(FusedLinear.like(layer.inner), FusedLinear.like(layer.outer, activation))
    assert isinstance(layer, nn.Linear)
    return FusedLinear.like(layer, activation)
