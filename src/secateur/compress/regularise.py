"""What a task makes random while it is learned: dropout, masked stretches, dropped layers, a still front end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.compress.config import Regularisation
from secateur.errors import ConfigError
from secateur.masking.attach import base_of


@contextmanager
def regularised(model: nn.Module, settings: Regularisation, *, freeze_frontend: bool = False) -> Iterator[None]:
    """A model set up for a phase, and as it was afterwards.

    Args:
        model: With or without a task head.
        settings: What its training mode switches on; all else is switched off.
        freeze_frontend: Whether the convolutional front end keeps its weights.

    Raises:
        ConfigError: Stretches of time are to be masked in a model that has no vector to put there.
    """
    base: Any = base_of(model)
    vector = getattr(base, "masked_spec_embed", None)
    if settings.time_masks and vector is None:
        raise ConfigError(
            "regularise.time_masks: this model has no mask vector (masked_spec_embed): leave it at 0, or use "
            "feature_masks."
        )
    changes: list[tuple[Any, str, Any]] = [
        (base.config, "apply_spec_augment", True),
        (base.config, "mask_time_prob", settings.time_masks),
        (base.config, "mask_time_length", settings.time_mask_length),
        (base.config, "mask_feature_prob", settings.feature_masks),
        (base.config, "mask_feature_length", settings.feature_mask_length),
        (base.config, "layerdrop", settings.layer_drop),
    ]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            changes.append((module, "p", settings.dropout))
        elif isinstance(getattr(module, "dropout", None), float | int):
            changes.append((module, "dropout", settings.dropout))
    if vector is not None:
        changes.append((vector, "requires_grad", settings.time_masks > 0))
    if freeze_frontend:
        changes += [(parameter, "requires_grad", False) for parameter in base.feature_extractor.parameters()]
        # The library makes the front end's input require gradients while this is true.
        changes.append((base.feature_extractor, "_requires_grad", False))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes if hasattr(owner, name)]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
