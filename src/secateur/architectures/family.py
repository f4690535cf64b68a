"""A family: what one Hugging Face architecture is called, and how its modules follow a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.structure.encoder_shape import EncoderShape


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        model_type: The library's name of it, in configs.
        stem: Of the library's class names: ``Wav2Vec2`` of ``Wav2Vec2Model``, ``Wav2Vec2ForCTC``, …
        base: What follows the stem in the name of the base model's class.
        heads: Model types of configs that hold the encoder's in their `encoder_config`, by the ending of the class with
            that head; empty where models with heads have the encoder's config.
        frame: Samples that a frame stands for, from an encoder's config; None where the library's configs tell it, as
            `inputs_to_logits_ratio`.
        layers: Path of its list of layers in the base model.
        remembered: Config fields whose original values a cut config remembers.
        refused: What the file of a cut config says in place of the truth, so that every stock class refuses it: none
            may load a cut model with random weights.
        fields: Config fields that follow a shape in our classes, those of `refused` among them.
        stock_fields: Config fields with which the stock classes have a shape, given the config and shape of a cut
            model; raises a SelectionError whose sentence says what prevents it.
        attention: The class of cut attention blocks, whose weights the library records.
        fit: Replaces what pruning cut in a freshly built base model, given its config and shape.
    """

    model_type: str
    stem: str
    base_suffix: str = "Model"
    composite_model_types: Mapping[str, str] = field(default_factory=dict)
    samples_per_frame: Callable[[Any], int] | None = None
    layers_path: str = "encoder.layers"
    original_fields: tuple[str, ...]
    poison_fields: Mapping[str, Any]
    fields: Callable[[EncoderShape], dict[str, Any]]
    stock_fields: Callable[[Any, EncoderShape], dict[str, Any]]
    attention_class: type[nn.Module]
    apply_shape: Callable[[Any, Any, EncoderShape], None]

    def class_name(self, head_class: str) -> str:
        """The library's name of the class with the head that `ending` names; ``Model`` for the base model."""
        return self.stem + (self.base_suffix if head_class == "Model" else head_class)

    @property
    def config_name(self) -> str:
        """The library's name of the base model's config class."""
        return f"{self.stem}{'' if self.base_suffix == 'Model' else self.base_suffix}Config"
