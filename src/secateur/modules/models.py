"""The Hugging Face model classes of cut models.

A cut model is the stock class with its cut parts replaced before anything is loaded, so heads, masking, frame counts
and output types stay the library's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from secateur.errors import ModelError
from secateur.modules.attention import CutAttention, CutWavLMAttention
from secateur.modules.configs import PREFIX, STEMS, config_class, stock_type
from secateur.modules.feed_forward import fit_feed_forward
from secateur.modules.positions import fit_positions
from secateur.modules.shape import shape_of

#: Auto classes by the ending of the model class they create.
AUTO = {
    "Model": ("AutoModel",),
    "ForCTC": ("AutoModelForCTC",),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "AutoModelForAudioClassification"),
    "ForAudioFrameClassification": ("AutoModelForAudioFrameClassification",),
    "ForXVector": ("AutoModelForAudioXVector",),
}


@cache
def model_class(model_type: str, ending: str) -> type[PreTrainedModel]:
    """Our model class for a stock model type and an ending such as ``Model`` or ``ForCTC``."""
    stock: Any = getattr(transformers, STEMS[model_type] + ending)
    attention = CutWavLMAttention if model_type == "wavlm" else CutAttention
    base = None if ending == "Model" else model_class(model_type, "Model")

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        if base is None:
            _fit(self, config, attention)
        else:
            setattr(self, self.base_model_prefix, base(config))
        self.post_init()

    def from_pretrained(cls: Any, /, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = super(built, cls).from_pretrained(*args, output_loading_info=True, **kwargs)
        refuse_inexact(model, info)
        return (model, info) if output_loading_info else model

    recorded = dict(stock._can_record_outputs or {})
    recorded["attentions"] = OutputRecorder(attention, index=1, layer_name="encoder")
    built: Any = type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"A cut {stock.__name__}.",
            "__module__": __name__,
            "config_class": config_class(model_type),
            "_can_record_outputs": recorded,
            "_supports_flash_attn": False,
            "_supports_flex_attn": False,
            "__init__": init,
            "from_pretrained": classmethod(from_pretrained),
        },
    )
    return built  # type: ignore[no-any-return]


def _fit(model: Any, config: Any, attention: type[CutAttention]) -> None:
    """Replace what pruning cut in a freshly built base model; conv widths and the layer count come from its config."""
    shape = shape_of(config)
    model.encoder.pos_conv_embed = fit_positions(model.encoder.pos_conv_embed, shape.positions)
    for index, layer in enumerate(model.encoder.layers):
        extra = {"holds_table": index == 0 and shape.has_heads} if attention is CutWavLMAttention else {}
        layer.attention = attention(config, shape.attention[index], shape.head_dim, **extra)
        layer.feed_forward = fit_feed_forward(layer.feed_forward, config, shape.feed_forward[index])


def refuse_inexact(model: Any, info: dict[str, Any], *, optional: Sequence[str] = ()) -> None:
    """Raise unless every parameter of the encoder was loaded as it is; a task head may be new, or left out.

    Args:
        model: The model that was loaded.
        info: What `from_pretrained(..., output_loading_info=True)` said.
        optional: Parameters of the encoder that may be missing.

    Raises:
        ModelError: A weight of the encoder is missing, unexpected or of another shape.
    """
    prefix = model.base_model_prefix + "."
    inside = set(getattr(model, model.base_model_prefix, model).state_dict())
    first = {name.partition(".")[0] for name in inside}
    missing, unexpected = (
        [key.removeprefix(prefix) for key in info[kind]] for kind in ("missing_keys", "unexpected_keys")
    )
    missing = [key for key in missing if key in inside and key not in optional]
    unexpected = [key for key in unexpected if key.partition(".")[0] in first]
    wrong = [str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys", ())]
    problems = [
        f"{word} {', '.join(sorted(keys)[:3])}{' …' if len(keys) > 3 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise ModelError(f"The weights do not fit the model's config: {'; '.join(problems)}.")


def endings(model_type: str) -> tuple[str, ...]:
    """Endings of the model classes that this family has."""
    return tuple(ending for ending in AUTO if hasattr(transformers, STEMS[model_type] + ending))


@cache
def register(model_type: str) -> None:
    """Make `AutoModel` and the task classes know a family's cut models."""
    for ending in endings(model_type):
        for auto in AUTO[ending]:
            cut = model_class(model_type, ending)
            getattr(transformers, auto).register(config_class(model_type), cut, exist_ok=True)


def class_for(config: Any, ending: str = "Model") -> type[PreTrainedModel]:
    """The class for a config, stock or cut, with the head that `ending` names."""
    model_type = stock_type(config.model_type)
    if config.model_type.startswith(PREFIX):
        return model_class(model_type, ending)
    return getattr(transformers, STEMS[model_type] + ending)  # type: ignore[no-any-return]


def ending_of(name: str, model_type: str) -> str:
    """The ending of a class name: ``Model``, ``ForCTC``, …; empty when the family has no such class."""
    ending = name.removeprefix("Secateur").removeprefix(STEMS[model_type])
    return ending if ending in endings(model_type) else ""
