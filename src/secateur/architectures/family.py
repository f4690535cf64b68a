"""Description of a Hugging Face architecture: names of classes, rows of the table of axes, and cuts of modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.architectures.table import AxisTable
from secateur.structure.encoder_shape import EncoderShape


@dataclass(frozen=True, kw_only=True)
class Family:
    """Hugging Face architecture.

    Attributes:
        model_type: Model type in the library's configs.
        stem: Start of the library's class names: ``Wav2Vec2`` of ``Wav2Vec2Model``, ``Wav2Vec2ForCTC``, …
        base_suffix: Rest of the name of the base model's class.
        composite_model_types: Model types of configs that hold the encoder's config in their `encoder_config`, by the
            ending of the class with that head; empty where models with heads have the encoder's config.
        samples_per_frame: Samples per output frame, from an encoder's config; None where the library's configs have
            `inputs_to_logits_ratio`.
        layers_path: Path of the list of layers in the base model.
        original_fields: Config fields whose original values a cut config remembers.
        poison_fields: Values that the file of a cut config has in place of the true ones, so that every stock class
            refuses it: no stock class may load a cut model with random weights.
        declare: Adds the rows of the architecture to a table.
        fields: Config fields that follow a shape in the registered classes, `poison_fields` included.
        stock_fields: Config fields with which the stock classes have a shape, given config and shape of a cut model.
            Raises a SelectionError with the reason if there are none.
        attention_class: Class of cut attention blocks, whose attention weights the library records.
        apply_shape: Replaces the pruned modules of a freshly built base model, given its config and shape.
    """

    model_type: str
    stem: str
    base_suffix: str = "Model"
    composite_model_types: Mapping[str, str] = field(default_factory=dict)
    samples_per_frame: Callable[[Any], int] | None = None
    layers_path: str = "encoder.layers"
    original_fields: tuple[str, ...]
    poison_fields: Mapping[str, Any]
    declare: Callable[[AxisTable], None]
    fields: Callable[[EncoderShape], dict[str, Any]]
    stock_fields: Callable[[Any, EncoderShape], dict[str, Any]]
    attention_class: type[nn.Module]
    apply_shape: Callable[[Any, Any, EncoderShape], None]

    def class_name(self, head_class: str) -> str:
        """Return the library's class name for a head class such as ``ForCTC``; ``Model`` is the base model."""
        return self.stem + (self.base_suffix if head_class == "Model" else head_class)

    @property
    def config_name(self) -> str:
        """Name of the library's config class of the base model."""
        return f"{self.stem}{'' if self.base_suffix == 'Model' else self.base_suffix}Config"
