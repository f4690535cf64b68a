"""Convolutions of few channels per group, computed in float32 where a oneDNN kernel is wrong in bfloat16.

On processors with AMX, oneDNN as shipped in torch 2.13 returns garbage for a bfloat16 convolution over time of 2 to 14
input channels per group, where that number is even and channels per group times taps is a multiple of 32 from 64 on;
a convolution of one group too. Errors are as large as the values, no warning is given, and gradients are right. The
positional convolution of a Base model (768 / 16 = 48 channels per group) is wide enough; those of small models are not
(192 / 16 = 12 channels, 64 taps).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Convolutions of at least this many input channels per group are computed by other kernels.
MIN_SAFE_CHANNELS = 16
#: Convolutions of fewer products per output, such as the front end's of two or three taps, are unaffected, too.
MIN_AFFECTED_PRODUCTS = 64


def is_narrow(*, in_channels: int, groups: int, taps: int) -> bool:
    """Return True for a convolution that the kernel may compute wrongly: a simple superset of the affected shapes."""
    width = in_channels // groups
    return 1 < width < MIN_SAFE_CHANNELS and width * taps >= MIN_AFFECTED_PRODUCTS


def guard_convolutions(model: nn.Module) -> None:
    """Make every narrow `nn.Conv1d` of a model compute in float32 instead of bfloat16 on a CPU.

    Inputs, outputs and weights keep their dtype, and all other modules their kernels.

    Args:
        model: Changed in place; its parameters, buffers and their names stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d) and _is_narrow(module):
            # On the instance, since weight norm gives each module a class of its own; a partial, since copies and
            # pickles of a bound method would come back as the class's own.
            module._conv_forward = partial(_conv_forward, module)  # type: ignore[method-assign]


def _is_narrow(conv: nn.Conv1d) -> bool:
    return is_narrow(in_channels=conv.in_channels, groups=conv.groups, taps=conv.kernel_size[0])


def _conv_forward(self: nn.Conv1d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Replace `nn.Conv1d._conv_forward`: (B, in, T) -> (B, out, T')."""
    if not computes_in_bfloat16(input):
        return nn.Conv1d._conv_forward(self, input, weight, bias)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        exact = None if bias is None else bias.float()
        return nn.Conv1d._conv_forward(self, input.float(), weight.float(), exact).bfloat16()  # type: ignore[no-any-return]


def computes_in_bfloat16(values: Tensor) -> bool:
    """Return True where a convolution of these values runs in bfloat16 on the CPU, by dtype or by autocast."""
    if values.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return values.dtype == torch.bfloat16


def narrow_convolution_error() -> float:
    """Return the relative error of an unguarded narrow convolution in bfloat16 on this processor.

    Around 0.002 where the kernel is right, above 1 where it is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 48, 50, generator=generator).bfloat16()  # (B, in, T), 4 groups of 12 channels
    weight = torch.randn(48, 12, 64, generator=generator).bfloat16()  # (out, in / groups, taps)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        exact = F.conv1d(values.float(), weight.float(), padding=32, groups=4)
        rounded = F.conv1d(values, weight, padding=32, groups=4).float()
    return float((rounded - exact).norm() / exact.norm())
