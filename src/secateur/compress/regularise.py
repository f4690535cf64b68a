"""What a task makes random while it is learned: dropout, masked stretches, dropped layers, a still front end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.arch import declare
from secateur.compress.config import Regularisation
from secateur.errors import ConfigError
from secateur.masking.attach import base_of
from secateur.modules.families import encoder_config, encoder_path
from secateur.modules.norm import ValidGroupNorm, leave_padding_out, tell_lengths

#: Attributes of modules with the chance that something is dropped, where no module of its own has it.
DROPOUTS = ("dropout", "activation_dropout", "attention_dropout", "dropout_positions", "layerdrop")


def _config_fields(settings: Regularisation) -> dict[str, Any]:
    """Fields of a model's config during a phase."""
    return {
        "apply_spec_augment": True,
        "mask_time_prob": settings.time_masks,
        "mask_time_length": settings.time_mask_length,
        "mask_feature_prob": settings.feature_masks,
        "mask_feature_length": settings.feature_mask_length,
        "layerdrop": settings.layer_drop,
    }


@contextmanager
def regularised(
    student: Callable[[], nn.Module], settings: Regularisation, *, freeze_frontend: bool = False
) -> Iterator[None]:
    """A model set up for a phase, and as it was afterwards.

    Args:
        student: Gives the model, with or without a task head: another one afterwards, where it was cut meanwhile.
        settings: What its training mode switches on; all else is switched off.
        freeze_frontend: Whether the convolutional front end keeps its weights.

    Raises:
        ConfigError: Stretches of time are to be masked in a model that has no vector to put there, or features in one
            that masks none, or a front end is to keep its weights where there is none.
    """
    model = student()
    base: Any = base_of(model)
    within = "" if base is model else f"{encoder_path(model)}."
    vector = getattr(base, "masked_spec_embed", None)
    if settings.time_masks and vector is None:
        raise ConfigError(
            "regularise.time_masks: this model has no mask vector (masked_spec_embed): leave it at 0, or use "
            "feature_masks."
        )
    if settings.feature_masks and not hasattr(type(base.config), "mask_feature_prob"):
        raise ConfigError("regularise.feature_masks: this model cannot mask features: leave it at 0.")
    if freeze_frontend and not any(hasattr(base, name) for name in ("feature_extractor", "subsampling")):
        raise ConfigError(
            "freeze_frontend: got true, but this model hears features and has no convolutional front end."
        )
    fields = {name: value for name, value in _config_fields(settings).items() if hasattr(base.config, name)}
    changes: list[tuple[str, str, Any]] = [(f"{within}config", *pair) for pair in fields.items()]
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            changes.append((path, "p", settings.dropout))
            continue
        for name in DROPOUTS:
            if isinstance(getattr(module, name, None), float | int):
                changes.append((path, name, settings.layer_drop if name == "layerdrop" else settings.dropout))
    if vector is not None:
        changes.append((f"{within}masked_spec_embed", "requires_grad", settings.time_masks > 0))
    if freeze_frontend:
        stem = declare(base.config).front_end
        front_end = f"{within}{stem}"
        parameters = base.get_submodule(stem).named_parameters()
        changes += [(f"{front_end}.{name}", "requires_grad", False) for name, _ in parameters]
        # The library makes the front end's input require gradients while this is true.
        changes.append((front_end, "_requires_grad", False))
    before = [
        (path, name, getattr(_at(model, path), name)) for path, name, _ in changes if hasattr(_at(model, path), name)
    ]
    for path, name, value in changes:
        setattr(_at(model, path), name, value)
    try:
        yield
    finally:
        model = student()
        tell_lengths(base_of(model), None)  # those of the last batch stay until its backward pass is over
        for path, name, value in before:
            owner = _at(model, path)
            if owner is not None:
                setattr(owner, name, value)


def keep_statistics(model: nn.Module) -> None:
    """Let every BatchNorm go on with the statistics it has, whatever mode the model is in."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a model's config that a phase may change, as they are."""
    config = encoder_config(config)
    return {name: getattr(config, name) for name in _config_fields(Regularisation()) if hasattr(config, name)}


def carry_over(before: nn.Module, after: nn.Module) -> None:
    """Set a model that was cut while it learned up as the one before it is."""
    encoder_config(after.config).update(fields_of(before.config))
    modules, parameters = dict(before.named_modules()), dict(before.named_parameters())
    for path, module in after.named_modules():
        for name in ("p", *DROPOUTS, "_requires_grad"):
            value = getattr(modules.get(path), name, None)
            if isinstance(value, bool | int | float) and hasattr(module, name):
                setattr(module, name, value)
    for name, parameter in after.named_parameters():
        parameter.requires_grad_(parameters[name].requires_grad)
    if any(isinstance(module, ValidGroupNorm) for module in modules.values()):
        leave_padding_out(base_of(after))


def _at(model: nn.Module, path: str) -> Any:
    """The module, parameter or config at a dotted path; None where a cut model has none."""
    owner: Any = model
    for part in path.split(".") if path else ():
        owner = getattr(owner, part, None)
    return owner
