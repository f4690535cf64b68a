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
from secateur.architectures.transducer import fit_head
from secateur.errors import ModelError
from secateur.hf.configs import head_config_class
from secateur.nn.low_rank import fit_low_rank
from secateur.nn.narrow_convolution import guard_convolutions

#: Auto classes by the ending of the model class they create.
AUTO = {
    "Model": ("AutoModel",),
    "ForCTC": ("AutoModelForCTC",),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "AutoModelForAudioClassification"),
    "ForAudioFrameClassification": ("AutoModelForAudioFrameClassification",),
    "ForXVector": ("AutoModelForAudioXVector",),
    "ForRNNT": ("AutoModelForRNNT",),
    "ForTDT": ("AutoModelForTDT",),
}


@cache
def model_class(model_type: str, ending: str) -> type[PreTrainedModel]:
    """Our model class for a stock model type and an ending such as ``Model`` or ``ForCTC``."""
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(ending))
    base = None if ending == "Model" else model_class(model_type, "Model")

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        if base is None:
            shape = shape_of(config)
            family.fit(self, config, shape)
            fit_low_rank(self, {path: len(shape.ranks(path)) for path in shape.factorised})
            guard_convolutions(self)
        elif not family.heads:  # else the library has built ours, by the config held
            setattr(self, self.base_model_prefix, base(config))
        elif config.secateur:
            fit_head(self, config)
        self.post_init()

    def load(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        # What the library returns does not tell whether the file has the encoder's path in front of its names.
        files = () if state_dict is not None else checkpoint_files or ()
        model.names_in_file = [*(state_dict or ()), *(name for file in files for name in _names_in(file))]
        return stock._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def from_pretrained(cls: Any, /, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = super(built, cls).from_pretrained(*args, output_loading_info=True, **kwargs)
        refuse_inexact(model, info, names=model.__dict__.pop("names_in_file", ()))
        return (model, info) if output_loading_info else model

    recorded = dict(stock._can_record_outputs or {})
    recorder = recorded["attentions"]
    bare = isinstance(recorder, type)
    recorded["attentions"] = family.attention if bare else replace(recorder, target_class=family.attention)
    built: Any = type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"A cut {stock.__name__}.",
            "__module__": __name__,
            "config_class": head_config_class(model_type, ending),
            "_can_record_outputs": recorded,
            "_supports_flash_attn": False,
            "_supports_flex_attn": False,
            "__init__": init,
            "from_pretrained": classmethod(from_pretrained),
            "_load_pretrained_model": staticmethod(load),
        },
    )
    return built  # type: ignore[no-any-return]


def _names_in(file: str) -> list[str]:
    """Return the names of the tensors in a file of weights."""
    return list(load_state_dict(file, map_location="meta"))


def refuse_inexact(
    model: Any, info: dict[str, Any], *, names: Collection[str] = (), optional: Sequence[str] = ()
) -> None:
    """Raise unless every parameter of the encoder was loaded as it is; a task head may be new, or left out.

    A head that was cut may not be new.

    Args:
        model: The model that was loaded.
        info: What `from_pretrained(..., output_loading_info=True)` said.
        names: Of the tensors in the file. Where the encoder's have its path in front, others are none of its own.
        optional: Parameters of the encoder that may be missing.

    Raises:
        ModelError: A weight of the encoder is missing, unexpected or of another shape.
    """
    path = encoder_path(model)
    prefix = f"{path or model.base_model_prefix}."
    encoder = set(model.get_submodule(path).state_dict())
    head: set[str] = set()
    if encoder_config(model.config) is not model.config and getattr(model.config, "secateur", None):
        head = {name for name in model.state_dict() if not name.startswith(prefix)}
    within = prefix if any(n.startswith(prefix) and n.removeprefix(prefix) in encoder for n in names) else ""
    missing = [key.removeprefix(prefix) for key in info["missing_keys"]]
    missing = [key for key in missing if key in encoder | head and key not in optional]
    unexpected = [
        key.removeprefix(within)
        for key in info["unexpected_keys"]
        if (key.startswith(within) and _first(key.removeprefix(within)) in set(map(_first, encoder)))
        or _first(key) in set(map(_first, head))
    ]
    wrong = [str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys", ())]
    problems = [
        f"{word} {', '.join(sorted(keys)[:3])}{' …' if len(keys) > 3 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise ModelError(f"The weights do not fit the model's config: {'; '.join(problems)}.")


def _first(name: str) -> str:
    """Return the first word of a name."""
    return name.partition(".")[0]


def endings(model_type: str) -> tuple[str, ...]:
    """Endings of the model classes that this family has."""
    return tuple(ending for ending in AUTO if hasattr(transformers, FAMILIES[model_type].class_name(ending)))


@cache
def register(model_type: str) -> None:
    """Make `AutoModel` and the task classes know a family's cut models."""
    for ending in endings(model_type):
        held = ("AutoModel",) if ending in FAMILIES[model_type].heads else ()
        for auto in (*AUTO[ending], *held):
            cut = model_class(model_type, ending)
            getattr(transformers, auto).register(head_config_class(model_type, ending), cut, exist_ok=True)


def class_for(config: Any, ending: str = "Model") -> type[PreTrainedModel]:
    """The class for a config, stock or cut, with the head that `ending` names."""
    family = family_of(config)
    if config.model_type.startswith(PREFIX):
        return model_class(family.model_type, ending)
    return getattr(transformers, family.class_name(ending))  # type: ignore[no-any-return]


def build_model(config: Any, ending: str = "Model") -> PreTrainedModel:
    """Return a new model of a config, stock or cut, with random weights and the head that `ending` names."""
    model = class_for(config, ending)(config)
    guard_convolutions(model)
    return model


def ending_of(name: str, model_type: str) -> str:
    """The ending of a class name: ``Model``, ``ForCTC``, …; empty when the family has no such class."""
    stock = name.removeprefix("Secateur")
    return next((ending for ending in endings(model_type) if FAMILIES[model_type].class_name(ending) == stock), "")
