"""Cutting: a freshly built model of the smaller shape, filled with masked weights, sliced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.arch import declare, fill, skeleton
from secateur.errors import ModelError, SelectionError
from secateur.masking.attach import base_of, has_masks
from secateur.masking.parts import Parts
from secateur.masking.taps import compile_taps, values_of
from secateur.modules import obstacles
from secateur.modules.configs import config_class, holding, stock_config
from secateur.modules.families import (
    FAMILIES,
    PREFIX,
    encoder_config,
    encoder_path,
    ending_held_by,
    head_record_of,
    record_of,
    shape_of,
    stock_type,
)
from secateur.modules.models import ending_of, endings
from secateur.modules.positions import direction_norm
from secateur.modules.transducer import HeadShape, stock_width
from secateur.structure import Selection, Structure, Weight, close, dense_again
from secateur.surgery.slices import Slices

Layout = Literal["registered", "stock"]
_OF_THE_FILE = ("model_type", "transformers_version", "architectures")  # what a config's file says of itself


def cut(
    model: PreTrainedModel, selection: Selection, *, layout: Layout = "registered", break_even: bool = True
) -> PreTrainedModel:
    """The model that computes what `model` computes under the selection's mask, without the masked parts.

    The model itself is not touched: the cut one is built anew, so nothing that was hooked or registered on the first
    is carried along. Scales are folded into the weights that consume them.

    Args:
        model: A supported Hugging Face model, stock or cut before, with or without a task head.
        selection: Kept units, as original indices; it is closed first.
        layout: ``registered`` (our classes, any shape) or ``stock`` (unmodified classes, where the shape allows).
        break_even: Whether factorised maps that are no cheaper than dense ones go back to one matrix.

    Raises:
        SelectionError: The selection does not fit the model, or the shape does not fit the stock layout.
        ModelError: The model has masks in it, or is of a class that cannot be cut.
    """
    if has_masks(model):
        raise ModelError("This model has masks in it; call `remove()` on what `attach` gave before cutting it.")
    structure = declare(model.config)
    closed = close(structure, selection).selection
    _check_head(model, closed, structure)
    config = cut_config(model.config, structure, closed, layout=layout, break_even=break_even)
    state = _state(Parts(model, structure), declare(config), closed)
    head = {name: value for name, value in state.items() if structure.in_head(name)}
    return rebuilt(model, config, {name: state[name] for name in state.keys() - head.keys()}, head=head)


def rebuilt(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    encoder: Mapping[str, Tensor],
    *,
    head: Mapping[str, Tensor] | None = None,
) -> PreTrainedModel:
    """A model of another encoder, built anew, with the task head and in the mode of the one before.

    Args:
        model: The one before.
        config: Of the new one.
        encoder: Its parameters, by name in the base model.
        head: Parameters of the task head that are not those of the one before.

    Raises:
        ModelError: The model is of a class that cannot be cut.
    """
    model_type = stock_type(encoder_config(model.config).model_type)
    ending = ending_of(type(model).__name__, model_type)
    if not ending:
        allowed = ", ".join(endings(model_type))
        raise ModelError(f"A {type(model).__name__} cannot be cut; allowed are the classes {allowed} of its family.")
    if model.config._attn_implementation in ("eager", "sdpa"):  # ours have no other; the default then
        config._attn_implementation = model.config._attn_implementation
    new = skeleton(config, ending)
    assert isinstance(new, PreTrainedModel)
    prefix = "" if base_of(new) is new else f"{encoder_path(new)}."
    state = {prefix + name: value for name, value in encoder.items()}
    before = {name: value for name, value in model.state_dict().items() if prefix and not name.startswith(prefix)}
    state |= {name: value.detach().clone() for name, value in before.items()} | dict(head or {})
    fill(new, state, like=model)
    for parameter in new.parameters():
        parameter.requires_grad_(True)
    if hasattr(model, "generation_config"):
        new.generation_config = copy.deepcopy(model.generation_config)
    new.train(model.training)
    return new


def cut_config(
    config: PreTrainedConfig,
    structure: Structure,
    closed: Selection,
    *,
    layout: Layout = "registered",
    break_even: bool = True,
) -> PreTrainedConfig:
    """The config of the cut model.

    Raises:
        SelectionError: The shape does not fit the stock layout; the sentence names what prevents it.
    """
    if encoder_config(config) is not config:
        held = cut_config(encoder_config(config), structure, closed, layout=layout, break_even=break_even)
        return _around(config, held, head_record_of(config, structure, closed))
    family = FAMILIES[structure.model_type]
    record = record_of(config, structure, closed, again=dense_again(structure, closed.axes) if break_even else ())
    fields: dict[str, Any] = config.to_dict() | record["original"] | {"secateur": record}
    for name in _OF_THE_FILE:
        fields.pop(name, None)
    new = config_class(structure.model_type)(**fields)
    if layout == "registered":
        return new
    shape = shape_of(new)
    obstacles.refuse(f"{next(iter(shape.factorised))} is two matrices" if shape.factorised else "")
    return stock_config(structure.model_type, fields | family.stock_fields(new, shape))


def _around(config: PreTrainedConfig, held: PreTrainedConfig, record: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a model with a head, where it holds the encoder's, around another one of the encoder.

    Args:
        config: Of the model.
        held: Of the other encoder.
        record: The entry ``secateur`` of the head; empty where it is whole.

    Raises:
        SelectionError: The other encoder is of a stock class, and the head fits none.
    """
    own = (*_OF_THE_FILE, "encoder_config", "secateur")
    fields = {name: value for name, value in config.to_dict().items() if name not in own}
    new: Any = holding(held, ending_held_by(config), fields | ({"secateur": dict(record)} if record else {}))
    if record and not held.model_type.startswith(PREFIX):
        new.decoder_hidden_size = stock_width(HeadShape.of(new))
    return new  # type: ignore[no-any-return]


def _state(parts: Parts, new: Structure, closed: Selection) -> dict[str, Tensor]:
    """Parameters and buffers of the cut encoder and transducer's head: tapped, then sliced to the new layout."""
    old = parts.structure
    values, taps, slices = values_of(old, closed), compile_taps(old), Slices(old, new)
    parameters, buffers = parts.parameters(), parts.buffers()
    lost = sorted(set(new.unused) - parameters.keys())
    if lost:
        raise SelectionError(
            f"This shape does not fit the stock layout: stock classes have {lost[0]}, which this model has not; "
            "cut the dense model."
        )

    def tapped(name: str) -> Tensor:
        value: Tensor = parameters[name].detach()
        if name not in taps:
            return value
        return value.double() * taps[name].of(values, value.dim()).to(value.device)

    state = {buffer.name: slices.of(buffer.name, buffers[buffer.name]) for buffer in new.buffers}
    state |= {name: parameters[name].detach().clone() for name in new.unused}  # of a stock class
    for weight in new.weights:
        before = old.counterpart(weight.name)
        if before.name in parameters:
            value, dtype = tapped(before.name), parameters[before.name].dtype
        else:  # a factorised map that goes back to one matrix
            linear = old.factorised_of[before.name]
            value, dtype = tapped(linear.outer).double() @ tapped(linear.inner).double(), parameters[linear.outer].dtype
        state[weight.name] = slices.of(weight.name, value.to(dtype))
    for weight in new.weights:
        if weight.magnitude:
            _keep_magnitude(state, parameters[weight.name].detach(), weight)
    return state


def _keep_magnitude(state: dict[str, Tensor], before: Tensor, weight: Weight) -> None:
    """Weight norm divides by the norm of what is left of a direction: its magnitude shrinks in proportion."""
    direction, magnitude = state[weight.name], state[weight.magnitude]
    left = direction_norm(direction, magnitude)
    share = left / direction_norm(before, magnitude)
    state[weight.magnitude] = (magnitude.double() * share).to(magnitude.dtype)
    # Nothing has no direction, and weight norm would divide zero by zero: any direction will do, at magnitude zero.
    state[weight.name] = torch.where((left == 0).expand_as(direction), torch.ones_like(direction), direction)


def _check_head(model: PreTrainedModel, closed: Selection, structure: Structure) -> None:
    """Raise a SelectionError where a task head needs what the selection removes."""
    trimmed = any(axis.size and not closed.axes[axis.name] for axis in structure.of_kinds(("layer",)))
    if trimmed and hasattr(model, "layer_weights"):
        raise SelectionError(
            "Trailing layers cannot be removed under a head that weighs all hidden states (use_weighted_layer_sum)."
        )
