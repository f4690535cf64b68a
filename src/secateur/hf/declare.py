"""Structure of a model from a config: parameter shapes of a skeleton, and the family's table of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights

from secateur.architectures import transducer
from secateur.architectures.registry import (
    composite_head_class,
    encoder_config,
    encoder_path,
    family_of,
    shape_of,
)
from secateur.architectures.table import AxisTable
from secateur.architectures.transducer import TRANSDUCER_HEAD_CLASSES, HeadShape
from secateur.errors import ModelError, SecateurError, describe_cause, did_you_mean
from secateur.hf.models import build_model
from secateur.structure import Structure


def skeleton(config: Any, head_class: str = "Model") -> nn.Module:
    """Build the model of a config on the meta device, without memory for weights and without random numbers.

    Raises:
        ModelError: transformers cannot build the model.
    """
    try:
        # Initial values on the meta device have no memory, yet computing them would take half of the time.
        with torch.random.fork_rng(devices=[]), no_init_weights(), torch.device("meta"):
            return build_model(config, head_class)
    except SecateurError:
        raise
    except Exception as error:  # model classes raise errors of many types for a bad config
        cause = _unknown_activation(config) or f"{describe_cause(error)}."
        raise ModelError(f"The config describes no {config.model_type} model that can be built: {cause}") from None


def _unknown_activation(config: Any) -> str:
    """Return a sentence about an activation in a config that transformers lacks, or an empty string."""
    for part in (config, encoder_config(config)):
        for name, value in vars(part).items():
            if name.endswith(("_act", "_activation")) and isinstance(value, str) and value not in ACT2FN:
                return f"{name}: got {value!r}, expected an activation of transformers.{did_you_mean(value, ACT2FN)}"
    return ""


def fill_skeleton(model: nn.Module, state: Mapping[str, Tensor], *, reference: nn.Module) -> None:
    """Fill a skeleton with tensors.

    Args:
        model: The skeleton.
        state: The state dict, with exactly the names of the skeleton.
        reference: A model whose non-persistent buffers are copied, such as tables of positions.
    """
    model.load_state_dict(state, strict=True, assign=True)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, reference.get_submodule(path).get_buffer(name).clone())
    assert not any(value.is_meta for value in (*model.parameters(), *model.buffers())), (
        "a parameter or buffer was not filled"
    )


@dataclass(frozen=True)
class _ConfigKey:
    """Cache key of a config: configs of equal content are equal."""

    name: str
    content: str
    config: Any = field(compare=False)


def declare(config: Any) -> Structure:
    """Return the structure of the encoder, and of a transducer's head, that a stock or cut config describes.

    The structures of the last 64 distinct configs are cached.

    Raises:
        ModelError: The architecture, or an option of the config, is not supported.
    """
    return _declare(_ConfigKey(type(config).__qualname__, repr(config.to_dict()), config))


@lru_cache(maxsize=64)
def _declare(config_key: _ConfigKey) -> Structure:
    config = config_key.config
    model_config = config
    head_class = composite_head_class(config)
    config = encoder_config(config)
    family = family_of(config)
    model_type = family.model_type
    if getattr(config, "add_adapter", False):
        raise ModelError(
            f"This {model_type} model has convolutional adapters after its encoder (add_adapter), "
            "which are not supported; set add_adapter to false if they are not needed."
        )
    if getattr(config, "conv_pos_batch_norm", False):
        raise ModelError("A positional convolution with batch norm (conv_pos_batch_norm) is not supported.")
    try:
        model = skeleton(model_config, head_class) if head_class in TRANSDUCER_HEAD_CLASSES else None
        table = AxisTable(
            skeleton(config) if model is None else model.get_submodule(encoder_path(model)), config, shape_of(config)
        )
    except SecateurError:
        raise
    except (ValueError, TypeError, ZeroDivisionError, IndexError, RuntimeError) as error:
        cause = describe_cause(error)
        raise ModelError(f"The config describes no {model_type} model that can be built: {cause}.") from None
    if not table.shape.layers:
        raise ModelError(f"The config has {config.num_hidden_layers} layers (num_hidden_layers); at least 1 is needed.")
    family.declare(table)
    if strides := [stage.stride for stage in table.stages if stage.stride < 1]:
        raise ModelError(f"The config has a front end with a stride of {strides[0]}; each is at least 1.")
    kept_units = dict(table.shape.axes)
    if model is not None:
        head = HeadShape.from_config(model_config)
        transducer.declare(table, model, head)
        kept_units |= head.axes
    structure = table.build_structure(model_type)
    _check_kept_units(structure, kept_units)
    return structure


def _check_kept_units(structure: Structure, kept_units: Mapping[str, Sequence[int]]) -> None:
    """Raise a ModelError if a config keeps units that the original model lacks."""
    for name, units in kept_units.items():
        if name not in structure.axes:
            raise ModelError(
                f"The 'secateur' entry has the axis {name!r}, which this model lacks."
                f"{did_you_mean(name, structure.axes)}"
            )
        size = structure.axes[name].original
        if units and units[-1] >= size:
            raise ModelError(f"The 'secateur' entry keeps unit {units[-1]} of the axis {name!r}, which had {size}.")
