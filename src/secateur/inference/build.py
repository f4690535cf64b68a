"""Construction of inference-only models: stock classes with faster modules in place of stock modules."""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from secateur.architectures import wav2vec2
from secateur.errors import ModelError
from secateur.hf.declare import fill_skeleton, skeleton
from secateur.hf.model_view import ModelView
from secateur.inference.front_end import FrontEnd
from secateur.inference.fused_attention import InferenceAttention
from secateur.inference.linear import fuse_linear
from secateur.inference.position_bias import InferencePositionalConv, RelativePositionBias
from secateur.nn.constant_block import ConstantBlock
from secateur.nn.norm import ValidGroupNorm, replace_group_norm

#: Model types with inference-only modules: those of wav2vec 2.0's layers, which the modules are written for.
INFERENCE_MODEL_TYPES = tuple(family.model_type for family in wav2vec2.FAMILIES)

#: Config fields of dropout and layer-drop in training mode.
_RANDOM_FIELDS = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "feat_quantizer_dropout",
    "final_dropout",
    "layerdrop",
)


def for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """Return an inference-only form of a model, cut or dense, with the task head.

    The returned model has the class, inputs and outputs of `model`, but returns no attention weights and can be neither
    trained nor saved. Weights without a faster layout are shared with `model` and must not be changed afterwards; hooks
    are not copied. Modules without a fast form, such as those with another activation than GELU, stay stock modules.

    Args:
        model: A supported model, in the dtype and on the device of later forward passes.

    Raises:
        ModelError: The architecture is not supported, its weights do not fit its config, or the
            model is an inference-only form already.
    """
    inference_model = inference_view(ModelView(model)).model
    assert isinstance(inference_model, PreTrainedModel)
    return inference_model


def inference_view(view: ModelView) -> ModelView:
    """Return the view of the model that `for_inference` returns."""
    if view.model_type not in INFERENCE_MODEL_TYPES:
        raise ModelError(
            f"There is no inference-only form of {view.model_type} models; there is of "
            f"{', '.join(INFERENCE_MODEL_TYPES)}."
        )
    if isinstance(view.encoder.feature_extractor, FrontEnd):
        raise ModelError("This model is in its inference-only form already.")
    copied_view = _copy_model(view)
    inference_model, encoder = copied_view.model, copied_view.encoder
    if any(isinstance(module, ValidGroupNorm) for module in view.model.modules()):
        replace_group_norm(encoder)
    with torch.no_grad():
        if encoder.config.feat_extract_activation == "gelu":
            encoder.feature_extractor = FrontEnd(encoder.feature_extractor)
            if hasattr(encoder.encoder.pos_conv_embed, "conv"):
                encoder.encoder.pos_conv_embed = InferencePositionalConv(encoder.encoder.pos_conv_embed)
        encoder.feature_projection.projection = fuse_linear(encoder.feature_projection.projection)
        positions = _add_position_bias(encoder)
        for layer in encoder.encoder.layers:
            if getattr(layer.attention, "groups", True):
                layer.attention = InferenceAttention(layer.attention, positions=positions)
            elif positions is not None:
                layer.attention.rel_attn_embed = None  # no block reads the bias that this block would pass on
            _fuse_feed_forward(layer.feed_forward, encoder.config)
    inference_model.requires_grad_(False)
    inference_model.save_pretrained = encoder.save_pretrained = _refuse_to_save
    encoder.register_forward_pre_hook(_refuse_attention_weights, with_kwargs=True)
    inference_model.eval()
    return copied_view


def _copy_model(view: ModelView) -> ModelView:
    """Build a new model with the same tensors, and a config without dropout, layer-drop and masking.

    transformers installs hooks on a model once, so that modules of the given model must not be replaced.
    """
    model = view.model
    if not view.head_class:
        raise ModelError(f"A {type(model).__name__} has no inference-only form here.")
    config = copy.deepcopy(model.config)
    for name in _RANDOM_FIELDS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if config._attn_implementation != "eager":
        config._attn_implementation = "sdpa"  # its masks have a form that `InferenceAttention` accepts
    copied_model = skeleton(config, view.head_class)
    copied_view = ModelView(copied_model)
    bases = view.encoder, copied_view.encoder
    source_conv, copied_conv = (getattr(base.encoder.pos_conv_embed, "conv", base) for base in bases)
    if parametrize.is_parametrized(copied_conv) and not parametrize.is_parametrized(source_conv):
        parametrize.remove_parametrizations(
            copied_conv, "weight"
        )  # the weight norm of the source is folded into the weight
    try:
        fill_skeleton(copied_model, model.state_dict(), reference=model)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"The weights of this model are of another form than its config says: {first}") from None
    config.mask_time_prob = config.mask_feature_prob = (
        0.0  # only now: with zeros the model would have been built without its mask vector
    )
    return copied_view


def _add_position_bias(base: Any) -> RelativePositionBias | None:
    """Add WavLM's position bias to the encoder and return the module; return None for families that have no bias."""
    table = getattr(base.encoder.layers[0].attention, "rel_attn_embed", None)
    if table is None:
        return None
    base.encoder.positions = RelativePositionBias(table.weight, farthest=base.config.max_bucket_distance)
    return base.encoder.positions  # type: ignore[no-any-return]


def _fuse_feed_forward(block: Any, config: Any) -> None:
    if isinstance(block, ConstantBlock):
        return
    if config.hidden_act == "gelu":
        block.intermediate_dense = fuse_linear(block.intermediate_dense, "gelu")
        block.intermediate_act_fn = nn.Identity()
    block.output_dense = fuse_linear(block.output_dense)


def _refuse_to_save(*args: Any, **kwargs: Any) -> NoReturn:
    raise ModelError("An inference-only form is not saved: save the model that it was made from.")


def _refuse_attention_weights(base: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("output_attentions") or base.config.output_attentions:
        raise ModelError("An inference-only form gives no attention weights: ask the model that it was made from.")
