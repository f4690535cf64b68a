"""Views of configs and models that give family, encoder, head class and structure."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from secateur.architectures.family import Family
from secateur.architectures.registry import (
    composite_head_class,
    encoder_config,
    encoder_path,
    family_of,
    shape_of,
)
from secateur.hf.declare import declare
from secateur.hf.models import head_class_of
from secateur.structure import Structure
from secateur.structure.encoder_shape import EncoderShape


class ConfigView:
    """Family, encoder config and structure of the model that a config describes.

    Everything but the two configs is computed at the first access and kept, so a view belongs to a config that no
    longer changes its shape.

    Attributes:
        config: The whole config, stock or cut. That of a transducer holds the config of its encoder.
        encoder_config: The config of the encoder; `config` itself where it describes the encoder directly.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config: Any = config
        self.encoder_config: Any = encoder_config(config)

    @staticmethod
    def of_config(config: PreTrainedConfig | ConfigView) -> ConfigView:
        """Return the view of a config; a view is returned unchanged."""
        return config if isinstance(config, ConfigView) else ConfigView(config)

    @property
    def holds_encoder(self) -> bool:
        """True if `config` contains the config of the encoder as a field, as in transducers."""
        return self.encoder_config is not self.config

    @property
    def parts(self) -> tuple[Any, ...]:
        """The config of the model, followed by the encoder's config if separate."""
        return (self.config, self.encoder_config) if self.holds_encoder else (self.config,)

    @cached_property
    def family(self) -> Family:
        """The family of the encoder.

        Raises:
            ModelError: The architecture is not supported.
        """
        return family_of(self.config)

    @property
    def model_type(self) -> str:
        """The stock model type of the encoder, such as ``wavlm``."""
        return self.family.model_type

    @cached_property
    def held_head_class(self) -> str:
        """The ending of the class name that belongs to the config of a transducer, such as ``ForRNNT``; else empty."""
        return composite_head_class(self.config)

    def head_class_named(self, class_name: str) -> str:
        """Return the ending of a class name of the family, such as ``ForCTC``; empty for unknown names."""
        return head_class_of(class_name, self.model_type)

    @cached_property
    def shape(self) -> EncoderShape:
        """The shape that the encoder's config describes."""
        return shape_of(self.encoder_config)

    @cached_property
    def structure(self) -> Structure:
        """The structure of the encoder, and of a transducer's head.

        Raises:
            ModelError: The architecture, or an option that the config switches on, is not supported.
        """
        return declare(self.config)


class ModelView(ConfigView):
    """View of a model with or without a task head: the view of the config, and the encoder in the model.

    A view is made where a model enters, when it is loaded, built or given by a user, and passed on from there.

    Attributes:
        model: The model.
        prefix: Start of the names of the encoder's parameters in `model`, such as ``"wavlm."``; empty for an encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(getattr(model, "config", None))  # type: ignore[arg-type]  # modules without one have an encoder
        self.model: Any = model
        self._path = encoder_path(model)
        self.prefix = f"{self._path}." if self._path else ""

    @classmethod
    def of(cls, model: nn.Module | ModelView) -> ModelView:
        """Return the view of a model; a view is returned unchanged."""
        return model if isinstance(model, ModelView) else cls(model)

    @property
    def encoder(self) -> Any:
        """The encoder without the task head; `model` if the model has no head."""
        return self.model.get_submodule(self._path)

    @property
    def encoder_view(self) -> ModelView:
        """The view of the encoder without the task head; `self` if the model has no head."""
        return ModelView(self.encoder) if self.has_head else self

    def copy(self) -> ModelView:
        """Return the view of a deep copy of the model."""
        return ModelView(copy.deepcopy(self.model))

    @property
    def has_head(self) -> bool:
        """True if the model has a task head."""
        return bool(self._path)

    @cached_property
    def head_class(self) -> str:
        """The ending of the model's class name, such as ``Model`` or ``ForCTC``; empty for a class of no known kind."""
        return self.head_class_named(type(self.model).__name__)
