"""Setup of a model for a training phase: dropout, masks, layer drop, and a frozen front end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from secateur.compress.config import RegularizationConfig, TrainingConfig
from secateur.compress.spec_augment import MASK_METHOD, has_masking, install_masking, remove_masking
from secateur.errors import ConfigError
from secateur.hf.model_view import ModelView
from secateur.masking.attach import replace_hidden_state
from secateur.nn.norm import ValidGroupNorm, replace_group_norm, set_valid_lengths

#: Attributes of modules that hold a drop probability, for dropout without a module `nn.Dropout`.
DROPOUT_ATTRIBUTES = ("dropout", "activation_dropout", "attention_dropout", "dropout_positions", "layerdrop")


def check_regularization(view: ModelView, training: TrainingConfig, *, phase: str) -> None:
    """Check that a model has all parts that the training settings of a phase name.

    Args:
        view: The model, with or without a task head.
        training: Settings of the phase.
        phase: Name of the phase.

    Raises:
        ConfigError: Frames are masked but the model has no mask vector, features are masked but the model cannot or
            has fewer features than a mask, or a front end is frozen but the model has no front end.
    """
    base = view.encoder
    settings = training.regularise
    if settings.time_masks and not hasattr(base, "masked_spec_embed"):
        if hasattr(base.config, "mask_time_prob"):
            reason = "by its config, with mask_time_prob and mask_feature_prob 0, the library builds no mask vector"
            remedy = "set mask_time_prob above 0 there, "
        else:
            reason, remedy = "this model has no mask vector", ""
        raise ConfigError(
            f"{phase}.regularise.time_masks: {reason} (masked_spec_embed): {remedy}leave it at 0, or use feature_masks."
        )
    if settings.feature_masks:
        if not hasattr(base, MASK_METHOD):
            raise ConfigError(f"{phase}.regularise.feature_masks: this model cannot mask features: leave it at 0.")
        if settings.feature_mask_length > base.config.hidden_size:
            raise ConfigError(
                f"{phase}.regularise.feature_mask_length: got {settings.feature_mask_length}, allowed is 1 to "
                f"{base.config.hidden_size}, the features of this model."
            )
    if training.freeze_frontend and not any(hasattr(base, name) for name in ("feature_extractor", "subsampling")):
        raise ConfigError(
            f"{phase}.freeze_frontend: got true, but this model takes features and has no convolutional front end."
        )


@contextmanager
def regularized(
    student: Callable[[], ModelView], settings: RegularizationConfig, *, freeze_frontend: bool = False
) -> Iterator[None]:
    """Set up a model for a phase, and restore the settings afterwards.

    Args:
        student: Returns the model, with or without a task head. The model may be cut in the course of the phase.
        settings: Rates of dropout, masks and layer drop in training mode.
        freeze_frontend: Whether the convolutional front end keeps its weights.
    """
    view = student()
    model, base, encoder_prefix = view.model, view.encoder, view.prefix
    vector = getattr(base, "masked_spec_embed", None)  # (D,), stands in for masked frames
    # Changes of attributes: the path of the module, parameter or config, the name of the attribute, the new value.
    changes: list[tuple[str, str, Any]] = []
    # The layer drop of transformers omits the hidden states of dropped layers; `_drop_layers` replaces it.
    if hasattr(base.config, "layerdrop"):
        changes.append((f"{encoder_prefix}config", "layerdrop", 0.0))
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            changes.append((path, "p", settings.dropout))
            continue
        for name in DROPOUT_ATTRIBUTES:
            # An attribute of this name may also be an nn.Dropout, which has an entry of its own.
            if isinstance(getattr(module, name, None), float | int):
                changes.append((path, name, 0.0 if name == "layerdrop" else settings.dropout))
    if vector is not None:
        # Unused without time masks, and then left out of the optimizer.
        changes.append((f"{encoder_prefix}masked_spec_embed", "requires_grad", settings.time_masks > 0))
    if freeze_frontend:
        front_end_name = view.structure.front_end
        front_end = f"{encoder_prefix}{front_end_name}"
        parameters = base.get_submodule(front_end_name).named_parameters()
        changes += [(f"{front_end}.{name}", "requires_grad", False) for name, _ in parameters]
        # While this is true, transformers makes the input of the front end require gradients.
        changes.append((front_end, "_requires_grad", False))
    original_values = []
    for path, name, value in changes:
        owner = _resolve_path(model, path)
        if hasattr(owner, name):
            original_values.append((path, name, getattr(owner, name)))
        setattr(owner, name, value)
    install_masking(base)
    hooks = _drop_layers(view, settings.layer_drop) if settings.layer_drop else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        # The student may have been replaced by a smaller one in the course of the phase.
        view = student()
        model = view.model
        remove_masking(view.encoder)
        set_valid_lengths(view.encoder, None)  # those of the last batch stay until its backward pass is over
        for path, name, value in original_values:
            owner = _resolve_path(model, path)
            if owner is not None:
                setattr(owner, name, value)


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep the running statistics of every BatchNorm, also in training mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def copy_training_state(source_view: ModelView, target_view: ModelView) -> None:
    """Copy the setup of a model for a phase to the smaller model that was cut from the model."""
    source, target = source_view.model, target_view.model
    if has_masking(source_view.encoder):
        install_masking(target_view.encoder)
    modules = dict(source.named_modules())
    parameters = dict(source.named_parameters())
    for path, module in target.named_modules():
        # `p` is the rate of nn.Dropout.
        for name in ("p", *DROPOUT_ATTRIBUTES, "_requires_grad"):
            value = getattr(modules.get(path), name, None)
            if isinstance(value, bool | int | float) and hasattr(module, name):
                setattr(module, name, value)
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(parameters[name].requires_grad)
    if any(isinstance(module, ValidGroupNorm) for module in modules.values()):
        replace_group_norm(target_view.encoder)


def _drop_layers(view: ModelView, share: float) -> list[RemovableHandle]:
    """Make layers pass on the input in training passes, with a probability of `share`, and return the hooks.

    The input stands in for the hidden state of a dropped layer, so that the number and the order of hidden states stay.
    """
    layers = view.encoder.get_submodule(view.family.layers_path)
    # Ahead of other hooks, so that hooks that record hidden states get the replaced output.
    return [layer.register_forward_hook(partial(_drop_layer, share), prepend=True) for layer in layers]


def _drop_layer(share: float, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return the output of a layer, or the input with probability `share`; without a branch, for `torch.compile`."""
    if not layer.training:
        return output
    state = output[0] if isinstance(output, tuple) else output
    dropped = torch.rand((), device=state.device) < share  # (), one draw for the whole batch
    return replace_hidden_state(output, torch.where(dropped, inputs[0], state))


def _resolve_path(model: nn.Module, path: str) -> Any:
    """Return the module, parameter or config at a dotted path, or a null value if a cut model lacks the path."""
    owner: Any = model
    for part in path.split(".") if path else ():
        owner = getattr(owner, part, None)
    return owner
