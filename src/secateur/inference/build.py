"""From a model to its inference-only form: the same class, with faster parts in the places of the stock ones."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.arch import skeleton
from secateur.errors import ModelError
from secateur.inference.attention import InferenceAttention
from secateur.inference.front_end import FrontEnd
from secateur.inference.linear import FusedLinear
from secateur.inference.positions import PositionalConv, RelativePositions
from secateur.modules.configs import stock_type
from secateur.modules.models import ending_of


def for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """The fastest inference-only form of a model, cut or dense, with its head.

    It is of the model's class and takes and gives the same, but gives no attention weights, cannot be trained and is
    not saved. Weights that need no other form are shared with `model`, which is not touched. What the fast parts do not
    know, such as another activation than GELU, keeps its stock form.

    Args:
        model: A supported model in the dtype and on the device that it is to run in.

    Raises:
        ModelError: The architecture is not supported, or the model is one of these already.
    """
    if isinstance(_base(model).feature_extractor, FrontEnd):
        raise ModelError("This model is in its inference-only form already.")
    new: Any = _copy(model)
    base = _base(new)
    config = base.config
    with torch.no_grad():
        if config.feat_extract_activation == "gelu":
            base.feature_extractor = FrontEnd(base.feature_extractor)
            if hasattr(base.encoder.pos_conv_embed, "conv"):
                base.encoder.pos_conv_embed = PositionalConv(base.encoder.pos_conv_embed)
        base.feature_projection.projection = FusedLinear.like(base.feature_projection.projection)
        positions = _positions(base, config)
        for layer in base.encoder.layers:
            if getattr(layer.attention, "groups", True):
                layer.attention = InferenceAttention(layer.attention, positions=positions)
            _fuse_feed_forward(layer.feed_forward, config)
    new.requires_grad_(False)
    new.save_pretrained = _refuse_to_save
    return new.eval()  # type: ignore[no-any-return]


def _base(model: Any) -> Any:
    return getattr(model, model.base_model_prefix, model)


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """A freshly built model with the same tensors: the library hooks a model once, so nothing is swapped in place."""
    ending = ending_of(type(model).__name__, stock_type(model.config.model_type))
    if not ending:
        raise ModelError(f"A {type(model).__name__} has no inference-only form here.")
    new: Any = skeleton(model.config, ending)
    new.load_state_dict(model.state_dict(), strict=True, assign=True)
    return new  # type: ignore[no-any-return]


def _positions(base: Any, config: Any) -> RelativePositions | None:
    """WavLM's position bias; None of other families."""
    first = base.encoder.layers[0].attention
    if getattr(first, "rel_attn_embed", None) is None:
        return None
    base.encoder.positions = RelativePositions(first.rel_attn_embed.weight, farthest=config.max_bucket_distance)
    return base.encoder.positions  # type: ignore[no-any-return]


def _fuse_feed_forward(block: Any, config: Any) -> None:
    if not isinstance(getattr(block, "intermediate_dense", None), nn.Linear):
        return  # an empty block of ours
    if config.hidden_act == "gelu":
        block.intermediate_dense = FusedLinear.like(block.intermediate_dense, "gelu")
        block.intermediate_act_fn = nn.Identity()
    block.output_dense = FusedLinear.like(block.output_dense)


def _refuse_to_save(*args: Any, **kwargs: Any) -> NoReturn:
    raise ModelError("An inference-only form is not saved: save the model that it was made from.")
