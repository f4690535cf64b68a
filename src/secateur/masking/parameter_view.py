"""Modules and parameters of a model by names in a structure."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.hf.model_view import ModelView
from secateur.structure import Structure


class ParameterView:
    """Modules, parameters and buffers of a model by the names that the structure uses.

    The structure names parts of the encoder without the encoder's prefix, such as ``encoder.layers.0`` for
    ``wavlm.encoder.layers.0``, and parts of a transducer's head by their full names.
    """

    def __init__(self, view: ModelView, structure: Structure) -> None:
        """
        Args:
            view: The model that `structure` was declared from, or the encoder alone of a structure without a head.
            structure: The structure.

        Raises:
            ModelError: The structure has a head that the model lacks.
        """
        self.model: nn.Module = view.model
        self.structure = structure
        self.prefix = view.prefix
        missing_paths = [path for path in structure.head if not hasattr(self.model, path)]
        if missing_paths:
            raise ModelError(
                f"The structure is of a transducer with its head, but this {type(self.model).__name__} has no "
                f"{missing_paths[0]!r}: give the whole model, or the structure of its encoder's config."
            )

    def module(self, path: str) -> nn.Module:
        """Return the module at a path."""
        return self.model.get_submodule(self._model_name(path))

    def parent_of(self, path: str) -> tuple[nn.Module, str]:
        """Return the parent of the module at a path, and the name of the attribute that holds the module."""
        parent, _, name = path.rpartition(".")
        return self.module(parent), name

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the encoder, and of the head if the structure has a head."""
        return {
            self._structure_name(name): value for name, value in self.model.named_parameters() if self._is_covered(name)
        }

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers of the encoder, and of the head if the structure has a head."""
        return {
            self._structure_name(name): value for name, value in self.model.named_buffers() if self._is_covered(name)
        }

    def _is_covered(self, name: str) -> bool:
        """Return whether the structure covers a parameter or buffer of the model."""
        return name.startswith(self.prefix) or self.structure.is_in_head(name)

    def _structure_name(self, name: str) -> str:
        """Return the name in the structure for a name in the model."""
        return name.removeprefix(self.prefix)

    def _model_name(self, path: str) -> str:
        """Return the name in the model for a name in the structure."""
        return path if self.structure.is_in_head(path) else (self.prefix + path).removesuffix(".")
