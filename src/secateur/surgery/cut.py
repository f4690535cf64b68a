"""Cut of a model: a new model of the smaller shape, filled with masked and sliced weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.architectures import stock_layout
from secateur.architectures.registry import FAMILIES, PREFIX, head_record_of, record_of
from secateur.architectures.transducer import HeadShape, stock_width
from secateur.errors import ModelError, SelectionError
from secateur.hf.configs import config_class, make_composite_config, stock_config
from secateur.hf.declare import fill_skeleton, skeleton
from secateur.hf.model_view import ConfigView, ModelView
from secateur.hf.models import head_classes
from secateur.masking.attach import has_masks
from secateur.masking.mask_sites import compile_mask_factors, mask_values
from secateur.masking.parameter_view import ParameterView
from secateur.nn.positional_conv import direction_norm
from secateur.structure import Selection, Structure, Weight, factorizations_to_merge, normalize
from secateur.surgery.slices import WeightSlicer

Layout = Literal["registered", "stock"]
_FILE_FIELDS = (
    "model_type",
    "transformers_version",
    "architectures",
)  # fields that describe a config file, not a model


def cut(
    model: PreTrainedModel, selection: Selection, *, layout: Layout = "registered", break_even: bool = True
) -> PreTrainedModel:
    """Build the model that computes the same as `model` under the selection's mask, without the masked parts.

    The given model is not changed. The cut model is new, so hooks and modules registered on the given model are not
    carried over. Scales are folded into the weights that consume them.

    Args:
        model: A supported Hugging Face model, stock or cut before, with or without a task head.
        selection: Kept units, as original indices; the selection is normalized first.
        layout: ``registered`` (secateur's classes, any shape) or ``stock`` (unmodified classes, if the shape allows).
        break_even: Merge factorized maps that are no cheaper than dense ones into one matrix.

    Raises:
        SelectionError: The selection does not fit the model, or the shape does not fit the stock layout.
        ModelError: Masks are attached to the model, or its class cannot be cut.
    """
    cut_model = cut_view(ModelView(model), selection, layout=layout, break_even=break_even).model
    assert isinstance(cut_model, PreTrainedModel)
    return cut_model


def cut_view(
    view: ModelView, selection: Selection, *, layout: Layout = "registered", break_even: bool = True
) -> ModelView:
    """Return the view of the model that `cut` returns."""
    if has_masks(view.model):
        raise ModelError("Masks are attached to this model; call `remove()` on the result of `attach` before cutting.")
    structure = view.structure
    normalized = normalize(structure, selection).selection
    _check_head(view.model, normalized, structure)
    config_view = cut_config(view, structure, normalized, layout=layout, break_even=break_even)
    state = _cut_state_dict(ParameterView(view, structure), config_view.structure, normalized)
    # Names of encoder parameters are relative to the base model and get a prefix later; names of the head are complete.
    head = {name: value for name, value in state.items() if structure.is_in_head(name)}
    return rebuild_model(view, config_view, {name: state[name] for name in state.keys() - head.keys()}, head=head)


def rebuild_model(
    view: ModelView,
    config_view: ConfigView,
    encoder: Mapping[str, Tensor],
    *,
    head: Mapping[str, Tensor] | None = None,
) -> ModelView:
    """Build a model with another encoder, and the task head and mode of a given model.

    Args:
        view: View of the given model.
        config_view: Config of the new model.
        encoder: Parameters of the new encoder, by name in the base model.
        head: Parameters of the task head that differ from those of the given model.

    Raises:
        ModelError: Models of the given class cannot be cut.
    """
    model = view.model
    if not view.head_class:
        allowed = ", ".join(head_classes(view.model_type))
        raise ModelError(f"A {type(model).__name__} cannot be cut; allowed are the classes {allowed} of its family.")
    config = config_view.config
    if model.config._attn_implementation in ("eager", "sdpa"):  # secateur's classes have no other, then their default
        config._attn_implementation = model.config._attn_implementation
    rebuilt_model: Any = skeleton(config, view.head_class)
    prefix = view.prefix  # of the rebuilt model, too: both have the same class name
    # "encoder.layers.0.attention.q_proj.weight" -> "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    state = {prefix + name: value for name, value in encoder.items()}
    # Parameters outside the encoder are copied; a model without head has no prefix and no such parameters.
    head_state = {name: value for name, value in model.state_dict().items() if prefix and not name.startswith(prefix)}
    state |= {name: value.detach().clone() for name, value in head_state.items()} | dict(head or {})
    fill_skeleton(rebuilt_model, state, reference=model)
    for parameter in rebuilt_model.parameters():
        parameter.requires_grad_(True)
    if hasattr(model, "generation_config"):
        rebuilt_model.generation_config = copy.deepcopy(model.generation_config)
    rebuilt_model.train(model.training)
    return ModelView(rebuilt_model)


def cut_config(
    view: ConfigView,
    structure: Structure,
    normalized: Selection,
    *,
    layout: Layout = "registered",
    break_even: bool = True,
) -> ConfigView:
    """Return the config of a cut model.

    Raises:
        SelectionError: The shape does not fit the stock layout; the message names the obstacle.
    """
    encoder_part = _cut_encoder_config(view.encoder_config, structure, normalized, layout=layout, break_even=break_even)
    if not view.holds_encoder:
        return encoder_part
    head_record = head_record_of(view.config, structure, normalized)
    return ConfigView(_with_encoder_config(view, encoder_part.config, head_record))


def _cut_encoder_config(
    config: PreTrainedConfig, structure: Structure, normalized: Selection, *, layout: Layout, break_even: bool
) -> ConfigView:
    """Return the config of the cut encoder."""
    family = FAMILIES[structure.model_type]
    record = record_of(
        config,
        structure,
        normalized,
        merged=factorizations_to_merge(structure, normalized.axes) if break_even else (),
    )
    # The config has the sizes of the dense model; the record has the kept units.
    fields: dict[str, Any] = config.to_dict() | record["original"] | {"secateur": record}
    for name in _FILE_FIELDS:
        fields.pop(name, None)
    new_view = ConfigView(config_class(structure.model_type)(**fields))
    if layout == "registered":
        return new_view
    shape = new_view.shape
    stock_layout.raise_if_obstacle(
        f"{next(iter(shape.factorized_ranks))} is two matrices" if shape.factorized_ranks else ""
    )
    stock_fields = family.stock_fields(new_view.config, shape)
    return ConfigView(stock_config(structure.model_type, fields | stock_fields))


def _with_encoder_config(
    view: ConfigView, encoder_part: PreTrainedConfig, record: Mapping[str, Any]
) -> PreTrainedConfig:
    """Return the config of a model with a head, with another encoder config inside.

    Args:
        view: View of the model's config.
        encoder_part: Config of the other encoder.
        record: Entry ``secateur`` of the head; empty if the head is not cut.

    Raises:
        SelectionError: The other encoder is of a stock class, and the head fits no stock class.
    """
    dropped_fields = (*_FILE_FIELDS, "encoder_config", "secateur")
    fields = {name: value for name, value in view.config.to_dict().items() if name not in dropped_fields}
    model_config: Any = make_composite_config(
        encoder_part, view.held_head_class, fields | ({"secateur": dict(record)} if record else {})
    )
    # "secateur-wavlm" is a registered class, "wavlm" a stock class.
    if record and not encoder_part.model_type.startswith(PREFIX):
        model_config.decoder_hidden_size = stock_width(HeadShape.from_config(model_config))
    return model_config  # type: ignore[no-any-return]


def _cut_state_dict(dense_view: ParameterView, cut_structure: Structure, normalized: Selection) -> dict[str, Tensor]:
    """Return masked and sliced parameters and buffers of the cut encoder and of a transducer's head."""
    dense_structure = dense_view.structure
    values = mask_values(dense_structure, normalized)
    mask_factors = compile_mask_factors(dense_structure)
    slices = WeightSlicer(dense_structure, cut_structure)
    parameters = dense_view.parameters()
    buffers = dense_view.buffers()
    missing_parameters = sorted(set(cut_structure.unused) - parameters.keys())
    if missing_parameters:
        raise SelectionError(
            f"This shape does not fit the stock layout: stock classes have {missing_parameters[0]}, which this model "
            "has not; cut the dense model."
        )

    def masked_parameter(name: str) -> Tensor:
        value: Tensor = parameters[name].detach()
        if name not in mask_factors:
            return value
        # In float64, so that a product with scales is rounded only once, to the dtype of the parameter.
        return value.double() * mask_factors[name].broadcast(values, value.dim()).to(value.device)

    state = {buffer.name: slices.extract(buffer.name, buffers[buffer.name]) for buffer in cut_structure.buffers}
    state |= {name: parameters[name].detach().clone() for name in cut_structure.unused}  # of a stock class
    for weight in cut_structure.weights:
        dense_weight = dense_structure.counterpart(weight.name)
        if dense_weight.name in parameters:
            dtype = parameters[dense_weight.name].dtype
            value = masked_parameter(dense_weight.name)
        else:  # a factorized map that is merged: (out, ranks) @ (ranks, in) -> (out, in)
            linear = dense_structure.factorization_of[dense_weight.name]
            dtype = parameters[linear.outer].dtype
            value = masked_parameter(linear.outer).double() @ masked_parameter(linear.inner).double()
        state[weight.name] = slices.extract(weight.name, value.to(dtype))
    for weight in cut_structure.weights:
        if weight.magnitude:
            _rescale_magnitude(state, parameters[weight.name].detach(), weight)
    return state


def _rescale_magnitude(state: dict[str, Tensor], dense_direction: Tensor, weight: Weight) -> None:
    """Scale the magnitude of a weight-normed parameter by the norm that the cut leaves of the direction."""
    direction = state[weight.name]
    magnitude = state[weight.magnitude]
    cut_norm = direction_norm(direction, magnitude)
    # Weight norm computes magnitude * direction / |direction|. The cut changes |direction|; the same ratio on the
    # magnitude leaves the remaining weights as they were.
    norm_ratio = cut_norm / direction_norm(dense_direction, magnitude)
    state[weight.magnitude] = (magnitude.double() * norm_ratio).to(magnitude.dtype)
    # A direction of norm 0 would make weight norm divide 0 by 0: replace it by ones, at magnitude 0.
    state[weight.name] = torch.where((cut_norm == 0).expand_as(direction), torch.ones_like(direction), direction)


def _check_head(model: PreTrainedModel, normalized: Selection, structure: Structure) -> None:
    """Raise a SelectionError if a task head needs layers that the selection removes."""
    # An axis of kind `layer` has a single unit, the layer.
    has_trimmed_layers = any(
        axis.size and not normalized.axes[axis.name] for axis in structure.axes_of_kinds(("layer",))
    )
    if has_trimmed_layers and hasattr(model, "layer_weights"):
        raise SelectionError(
            "Trailing layers cannot be removed under a head that weighs all hidden states (use_weighted_layer_sum)."
        )
