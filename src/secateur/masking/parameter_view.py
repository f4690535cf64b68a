"""What the names of a structure mean in a model: parts of its encoder, or of a transducer's head."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.hf.model_view import ModelView
from secateur.structure import Structure


class ParameterView:
    """Modules, parameters and buffers of a model by the names that a structure has for them."""

    def __init__(self, view: ModelView, structure: Structure) -> None:
        """
        Args:
            view: The model that `structure` was declared from, or the encoder alone of a structure without a head.
            structure: Its structure.

        Raises:
            ModelError: The structure has a head that the model has not.
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
        """The module at a path."""
        return self.model.get_submodule(self._model_name(path))

    def parent_of(self, path: str) -> tuple[nn.Module, str]:
        """The module around the one at a path, and what it calls it."""
        parent, _, name = path.rpartition(".")
        return self.module(parent), name

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter of the encoder, and of the head where the structure has one."""
        return {
            self._structure_name(name): value for name, value in self.model.named_parameters() if self._is_covered(name)
        }

    def buffers(self) -> dict[str, Tensor]:
        """The same of buffers."""
        return {
            self._structure_name(name): value for name, value in self.model.named_buffers() if self._is_covered(name)
        }

    def _is_covered(self, name: str) -> bool:
        """Whether something of the model is spoken of."""
        return name.startswith(self.prefix) or self.structure.is_in_head(name)

    def _structure_name(self, name: str) -> str:
        """The structure's name of something."""
        return name.removeprefix(self.prefix)

    def _model_name(self, path: str) -> str:
        """The model's name of something."""
        return path if self.structure.is_in_head(path) else (self.prefix + path).removesuffix(".")
