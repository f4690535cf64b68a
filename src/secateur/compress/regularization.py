"""What a task makes random while it is learned: dropout, masked stretches, dropped layers, a still front end."""

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

#: Attributes of modules with the chance that something is dropped, where no module of its own has it.
DROPOUT_ATTRIBUTES = ("dropout", "activation_dropout", "attention_dropout", "dropout_positions", "layerdrop")


def check_regularization(view: ModelView, training: TrainingConfig, *, phase: str) -> None:
    """Raise a ConfigError where a model lacks what the training of a phase asks for.

    Args:
        view: The model, with or without a task head; what is cut of it later has no part in this.
        training: Of the phase.
        phase: Its name.

    Raises:
        ConfigError: Frames are to be masked in a model that has no vector to put there, features in one that masks
            none or has fewer, or a front end is to keep its weights where there is none.
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
            f"{phase}.freeze_frontend: got true, but this model hears features and has no convolutional front end."
        )


@contextmanager
def regularized(
    student: Callable[[], ModelView], settings: RegularizationConfig, *, freeze_frontend: bool = False
) -> Iterator[None]:
    """A model set up for a phase, and as it was afterwards.

    Args:
        student: Gives the model, with or without a task head: another one afterwards, where it was cut meanwhile.
        settings: What its training mode switches on; all else is switched off.
        freeze_frontend: Whether the convolutional front end keeps its weights.
    """
    view = student()
    model, base, encoder_prefix = view.model, view.encoder, view.prefix
    vector = getattr(base, "masked_spec_embed", None)
    # The library's own layer-drop leaves the hidden states of dropped layers out: `_drop_layers` does it instead.
    changes: list[tuple[str, str, Any]] = []
    if hasattr(base.config, "layerdrop"):
        changes.append((f"{encoder_prefix}config", "layerdrop", 0.0))
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            changes.append((path, "p", settings.dropout))
            continue
        for name in DROPOUT_ATTRIBUTES:
            if isinstance(getattr(module, name, None), float | int):
                changes.append((path, name, 0.0 if name == "layerdrop" else settings.dropout))
    if vector is not None:
        changes.append((f"{encoder_prefix}masked_spec_embed", "requires_grad", settings.time_masks > 0))
    if freeze_frontend:
        front_end_name = view.structure.front_end
        front_end = f"{encoder_prefix}{front_end_name}"
        parameters = base.get_submodule(front_end_name).named_parameters()
        changes += [(f"{front_end}.{name}", "requires_grad", False) for name, _ in parameters]
        # The library makes the front end's input require gradients while this is true.
        changes.append((front_end, "_requires_grad", False))
    original_values = [
        (path, name, getattr(_resolve_path(model, path), name))
        for path, name, _ in changes
        if hasattr(_resolve_path(model, path), name)
    ]
    for path, name, value in changes:
        setattr(_resolve_path(model, path), name, value)
    install_masking(base)
    hooks = _drop_layers(view, settings.layer_drop) if settings.layer_drop else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        view = student()
        model = view.model
        remove_masking(view.encoder)
        set_valid_lengths(view.encoder, None)  # those of the last batch stay until its backward pass is over
        for path, name, value in original_values:
            owner = _resolve_path(model, path)
            if owner is not None:
                setattr(owner, name, value)


def freeze_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm go on with the statistics it has, whatever mode the model is in."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def copy_training_state(source_view: ModelView, target_view: ModelView) -> None:
    """Set a model that was cut while it learned up as the one before it is."""
    source, target = source_view.model, target_view.model
    if has_masking(source_view.encoder):
        install_masking(target_view.encoder)
    modules, parameters = dict(source.named_modules()), dict(source.named_parameters())
    for path, module in target.named_modules():
        for name in ("p", *DROPOUT_ATTRIBUTES, "_requires_grad"):
            value = getattr(modules.get(path), name, None)
            if isinstance(value, bool | int | float) and hasattr(module, name):
                setattr(module, name, value)
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(parameters[name].requires_grad)
    if any(isinstance(module, ValidGroupNorm) for module in modules.values()):
        replace_group_norm(target_view.encoder)


def _drop_layers(view: ModelView, share: float) -> list[RemovableHandle]:
    """Make layers hand their input on in training passes, each with a chance of `share`, and return the hooks.

    The hidden state of such a layer is its input, so that a pass gives as many states as ever, in their order.
    """
    layers = view.encoder.get_submodule(view.family.layers_path)
    return [layer.register_forward_hook(partial(_drop_layer, share), prepend=True) for layer in layers]


def _drop_layer(share: float, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return the output of a layer, perhaps with its input as the hidden state; chosen without a branch, to compile."""
    if not layer.training:
        return output
    state = output[0] if isinstance(output, tuple) else output
    dropped = torch.rand((), device=state.device) < share
    return replace_hidden_state(output, torch.where(dropped, inputs[0], state))


def _resolve_path(model: nn.Module, path: str) -> Any:
    """The module, parameter or config at a dotted path; None where a cut model has none."""
    owner: Any = model
    for part in path.split(".") if path else ():
        owner = getattr(owner, part, None)
    return owner
