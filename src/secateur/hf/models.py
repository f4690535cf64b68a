"""The Hugging Face model classes of cut models.

A cut model is the stock class with its cut parts replaced before anything is loaded, so heads, masking, frame counts
and output types stay the library's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict

from secateur.architectures.registry import FAMILIES, PREFIX, encoder_config, encoder_path, family_of, shape_of
from secateur.architectures.transducer import resize_transducer_head
from secateur.errors import ModelError
from secateur.hf.configs import head_config_class
from secateur.nn.low_rank import insert_low_rank
from secateur.nn.narrow_convolution import guard_convolutions

#: Auto classes by the ending of the model class they create.
AUTO_CLASSES = {
    "Model": ("AutoModel",),
    "ForCTC": ("AutoModelForCTC",),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "AutoModelForAudioClassification"),
    "ForAudioFrameClassification": ("AutoModelForAudioFrameClassification",),
    "ForXVector": ("AutoModelForAudioXVector",),
    "ForRNNT": ("AutoModelForRNNT",),
    "ForTDT": ("AutoModelForTDT",),
}


@cache
def model_class(model_type: str, head_class: str) -> type[PreTrainedModel]:
    """Return the class of cut models for a stock model type and an ending such as ``Model`` or ``ForCTC``."""
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(head_class))
    base = None if head_class == "Model" else model_class(model_type, "Model")

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        if base is None:
            shape = shape_of(config)
            family.apply_shape(self, config, shape)
            insert_low_rank(self, {path: len(shape.ranks(path)) for path in shape.factorized_ranks})
            guard_convolutions(self)
        elif (
            not family.composite_model_types
        ):  # else transformers has built the cut encoder from the config of the encoder
            setattr(self, self.base_model_prefix, base(config))
        elif config.secateur:
            resize_transducer_head(self, config)
        self.post_init()

    def load(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        # The result of transformers does not say whether names in the file start with the encoder's path.
        files = () if state_dict is not None else checkpoint_files or ()
        model.names_in_file = [*(state_dict or ()), *(name for file in files for name in _names_in(file))]
        return stock._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def from_pretrained(cls: Any, /, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = super(cut_class, cls).from_pretrained(*args, output_loading_info=True, **kwargs)
        check_loaded_weights(model, info, names_in_file=model.__dict__.pop("names_in_file", ()))
        return (model, info) if output_loading_info else model

    recorded_outputs = dict(stock._can_record_outputs or {})
    recorder = recorded_outputs["attentions"]
    is_bare_recorder = isinstance(recorder, type)
    recorded_outputs["attentions"] = (
        family.attention_class if is_bare_recorder else replace(recorder, target_class=family.attention_class)
    )
    cut_class: Any = type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"A cut {stock.__name__}.",
            "__module__": __name__,
            "config_class": head_config_class(model_type, head_class),
            "_can_record_outputs": recorded_outputs,
            "_supports_flash_attn": False,
            "_supports_flex_attn": False,
            "__init__": init,
            "from_pretrained": classmethod(from_pretrained),
            "_load_pretrained_model": staticmethod(load),
        },
    )
    return cut_class  # type: ignore[no-any-return]


def _names_in(file: str) -> list[str]:
    """Return the names of the tensors in a file of weights."""
    return list(load_state_dict(file, map_location="meta"))


def check_loaded_weights(
    model: Any, loading_info: dict[str, Any], *, names_in_file: Collection[str] = (), optional_names: Sequence[str] = ()
) -> None:
    """Raise a ModelError unless every parameter of the encoder was loaded unchanged.

    A task head may be new or left out, but a cut head may not be new.

    Args:
        model: The model that was loaded.
        loading_info: The second result of `from_pretrained(..., output_loading_info=True)`.
        names_in_file: Names of the tensors in the file. If the encoder's names have the encoder's path as prefix, names
            without the prefix do not belong to the encoder.
        optional_names: Parameters of the encoder that may be missing.

    Raises:
        ModelError: A weight of the encoder is missing, unexpected or of another shape.
    """
    path = encoder_path(model)
    prefix = f"{path or model.base_model_prefix}."
    encoder_names = set(model.get_submodule(path).state_dict())
    head_names: set[str] = set()
    if encoder_config(model.config) is not model.config and getattr(model.config, "secateur", None):
        head_names = {name for name in model.state_dict() if not name.startswith(prefix)}
    unexpected_prefix = (
        prefix if any(n.startswith(prefix) and n.removeprefix(prefix) in encoder_names for n in names_in_file) else ""
    )
    missing = [key.removeprefix(prefix) for key in loading_info["missing_keys"]]
    missing = [key for key in missing if key in encoder_names | head_names and key not in optional_names]
    unexpected = [
        key.removeprefix(unexpected_prefix)
        for key in loading_info["unexpected_keys"]
        if (
            key.startswith(unexpected_prefix)
            and _first_component(key.removeprefix(unexpected_prefix)) in set(map(_first_component, encoder_names))
        )
        or _first_component(key) in set(map(_first_component, head_names))
    ]
    mismatched = [str(key[0] if isinstance(key, tuple) else key) for key in loading_info.get("mismatched_keys", ())]
    problems = [
        f"{word} {', '.join(sorted(keys)[:3])}{' …' if len(keys) > 3 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    if problems:
        raise ModelError(f"The weights do not fit the model's config: {'; '.join(problems)}.")


def _first_component(name: str) -> str:
    """Return the first component of a name."""
    return name.partition(".")[0]


def head_classes(model_type: str) -> tuple[str, ...]:
    """Return the endings of the model classes of a family."""
    return tuple(
        head_class for head_class in AUTO_CLASSES if hasattr(transformers, FAMILIES[model_type].class_name(head_class))
    )


@cache
def register(model_type: str) -> None:
    """Register the cut models of a family with `AutoModel` and the auto classes of tasks."""
    for head_class in head_classes(model_type):
        base_auto_classes = ("AutoModel",) if head_class in FAMILIES[model_type].composite_model_types else ()
        for auto in (*AUTO_CLASSES[head_class], *base_auto_classes):
            cut_class = model_class(model_type, head_class)
            getattr(transformers, auto).register(head_config_class(model_type, head_class), cut_class, exist_ok=True)


def class_for(config: Any, head_class: str = "Model") -> type[PreTrainedModel]:
    """Return the model class for a stock or cut config and the ending of a class name."""
    family = family_of(config)
    if config.model_type.startswith(PREFIX):
        return model_class(family.model_type, head_class)
    return getattr(transformers, family.class_name(head_class))  # type: ignore[no-any-return]


def build_model(config: Any, head_class: str = "Model") -> PreTrainedModel:
    """Build a model with random weights from a stock or cut config and the ending of a class name."""
    model = class_for(config, head_class)(config)
    guard_convolutions(model)
    return model


def head_class_of(name: str, model_type: str) -> str:
    """Return the ending of a class name, such as ``ForCTC``; empty if the family has no class of the name."""
    stock = name.removeprefix("Secateur")
    return next(
        (head_class for head_class in head_classes(model_type) if FAMILIES[model_type].class_name(head_class) == stock),
        "",
    )
