"""From a model to its inference-only form: the same class, with faster parts in the places of the stock ones."""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from secateur.arch import fill, skeleton
from secateur.errors import ModelError
from secateur.inference.attention import InferenceAttention
from secateur.inference.front_end import FrontEnd
from secateur.inference.linear import fused
from secateur.inference.positions import PositionalConv, RelativePositions
from secateur.masking.attach import base_of
from secateur.modules.families import stock_type
from secateur.modules.feed_forward import EmptyFeedForward
from secateur.modules.models import ending_of
from secateur.modules.norm import ValidGroupNorm, leave_padding_out

#: Model types whose parts have a faster form here.
FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat")

#: What a config switches on while training.
_RANDOM = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "feat_quantizer_dropout",
    "final_dropout",
    "layerdrop",
)


def for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """An inference-only form of a model, cut or dense, with its head, made for speed.

    It is of the model's class and takes and gives the same, but gives no attention weights, cannot be trained and is
    not saved. Weights that need no other form are shared with `model`, which is not touched, and must not be changed
    afterwards; hooks are not carried along. What the fast parts do not know, such as another activation than GELU,
    keeps its stock form.

    Args:
        model: A supported model in the dtype and on the device that it is to run in.

    Raises:
        ModelError: The architecture is not supported, its weights are of another form than its config says, or the
            model is an inference-only form already.
    """
    model_type = stock_type(model.config.model_type)
    if model_type not in FAMILIES:
        raise ModelError(f"There is no inference-only form of {model_type} models; there is of {', '.join(FAMILIES)}.")
    if isinstance(base_of(model).feature_extractor, FrontEnd):
        raise ModelError("This model is in its inference-only form already.")
    new: Any = _copy(model)
    base: Any = base_of(new)
    if any(isinstance(module, ValidGroupNorm) for module in model.modules()):
        leave_padding_out(base)
    with torch.no_grad():
        if base.config.feat_extract_activation == "gelu":
            base.feature_extractor = FrontEnd(base.feature_extractor)
            if hasattr(base.encoder.pos_conv_embed, "conv"):
                base.encoder.pos_conv_embed = PositionalConv(base.encoder.pos_conv_embed)
        base.feature_projection.projection = fused(base.feature_projection.projection)
        positions = _positions(base)
        for layer in base.encoder.layers:
            if getattr(layer.attention, "groups", True):
                layer.attention = InferenceAttention(layer.attention, positions=positions)
            elif positions is not None:
                layer.attention.rel_attn_embed = None  # no block reads what it would hand on
            _fuse_feed_forward(layer.feed_forward, base.config)
    new.requires_grad_(False)
    new.save_pretrained = base.save_pretrained = _refuse_to_save
    base.register_forward_pre_hook(_refuse_weights, with_kwargs=True)
    return new.eval()  # type: ignore[no-any-return]


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """A freshly built model with the same tensors: the library hooks a model once, so nothing is swapped in place.

    Its config is its own, and has nothing in it that `train()` would switch on.
    """
    ending = ending_of(type(model).__name__, stock_type(model.config.model_type))
    if not ending:
        raise ModelError(f"A {type(model).__name__} has no inference-only form here.")
    config = copy.deepcopy(model.config)
    for name in _RANDOM:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if config._attn_implementation != "eager":
        config._attn_implementation = "sdpa"  # the form of its masks is one that ours understand
    new: Any = skeleton(config, ending)
    bases: tuple[Any, Any] = base_of(model), base_of(new)
    theirs, ours = (getattr(base.encoder.pos_conv_embed, "conv", base) for base in bases)
    if parametrize.is_parametrized(ours) and not parametrize.is_parametrized(theirs):
        parametrize.remove_parametrizations(ours, "weight")  # somebody has folded the weight norm
    try:
        fill(new, model.state_dict(), like=model)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"The weights of this model are of another form than its config says: {first}") from None
    config.mask_time_prob = config.mask_feature_prob = 0.0  # only now: the model has a mask vector by these
    return new  # type: ignore[no-any-return]


def _positions(base: Any) -> RelativePositions | None:
    """WavLM's position bias; None of other families."""
    table = getattr(base.encoder.layers[0].attention, "rel_attn_embed", None)
    if table is None:
        return None
    base.encoder.positions = RelativePositions(table.weight, farthest=base.config.max_bucket_distance)
    return base.encoder.positions  # type: ignore[no-any-return]


def _fuse_feed_forward(block: Any, config: Any) -> None:
    if isinstance(block, EmptyFeedForward):
        return
    if config.hidden_act == "gelu":
        block.intermediate_dense = fused(block.intermediate_dense, "gelu")
        block.intermediate_act_fn = nn.Identity()
    block.output_dense = fused(block.output_dense)


def _refuse_to_save(*args: Any, **kwargs: Any) -> NoReturn:
    raise ModelError("An inference-only form is not saved: save the model that it was made from.")


def _refuse_weights(base: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("output_attentions") or base.config.output_attentions:
        raise ModelError("An inference-only form gives no attention weights: ask the model that it was made from.")
