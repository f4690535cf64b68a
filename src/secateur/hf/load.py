"""Loading of configs and models from a folder or hub id, with strict checks of all weights."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub import constants
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from secateur.architectures.registry import FAMILIES, stock_type
from secateur.errors import ModelError, describe_cause
from secateur.hf.configs import make_composite_config, register_configs
from secateur.hf.declare import skeleton
from secateur.hf.extra_weights import ExtraWeights, find_adapters
from secateur.hf.hub_files import find_file, is_reachable
from secateur.hf.match_tensors import (
    TensorMatch,
    describe_head_misfit,
    describe_misfit,
    describe_non_finite,
    format_names,
    match_tensors,
)
from secateur.hf.model_view import ConfigView, ModelView
from secateur.hf.models import build_model, check_loaded_weights, class_for, head_classes
from secateur.hf.weight_files import CheckpointTensors, read_weights
from secateur.nn.narrow_convolution import guard_convolutions

logger = logging.getLogger(__name__)

#: Parameters that some published checkpoints lack and that inference never uses: the mask vector of the encoder, and
#: the weight of the loss of speaker verification.
OPTIONAL_PARAMETERS = ("masked_spec_embed", "objective.weight")

#: Implementations of attention that need no other package.
_TORCH_ATTENTION = ("eager", "sdpa")


def load_config(model: str | Path) -> PreTrainedConfig:
    """Return the config of a model folder (``config.json`` is enough) or hub id; see `load_config_view`."""
    return load_config_view(model).config  # type: ignore[no-any-return]


def load_config_view(model: str | Path) -> ConfigView:
    """Return the view of the config of a model folder (``config.json`` is enough) or hub id.

    Raises:
        ModelError: The config is missing or unreadable, or the architecture is not supported.
    """
    register_configs()
    folder = Path(model)
    if folder.is_dir() or folder.suffix == ".json" or str(model).startswith((".", "/")):
        path = folder if folder.suffix == ".json" else folder / "config.json"
        if not path.is_file():
            run_model_folder = folder / "model"
            hint = (
                f" The model of this run is {str(run_model_folder)!r}."
                if (run_model_folder / path.name).is_file()
                else ""
            )
            raise ModelError(
                f"There is no {path.name} in {str(folder)!r}: give a model folder, a config or a hub id.{hint}"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"The config {str(path)!r} is not readable JSON: {error}.") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
            raise ModelError(f"The config {str(path)!r} has no model_type.")
        stock_type(fields["model_type"])
        source: str | Path = path.parent if path.name == "config.json" else path
    else:
        source = model
    not_found_note = "" if folder.exists() else "there is no such folder here, and as a hub id: "
    try:
        if source is model and not is_reachable(str(model)):
            host = urlparse(constants.ENDPOINT).hostname
            raise ModelError(
                f"The config of {str(model)!r} cannot be used: {not_found_note}the name {host} does not resolve; check "
                "the path, or the network."
            )
        config = AutoConfig.from_pretrained(source)
    except ModelError:
        raise
    except Exception as error:  # transformers raises errors of many types for a bad config
        raise ModelError(
            f"The config of {str(model)!r} cannot be used: {not_found_note}{describe_cause(error)}."
        ) from None
    view = ConfigView(config)
    _ = view.family
    classes = config.architectures
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ModelError(
            f"The config of {str(model)!r} cannot be used: architectures: got {classes!r}, expected a list with the "
            "name of a class, such as ['WavLMModel']."
        )
    _reset_unknown_attention(str(model), view)
    return view


def _reset_unknown_attention(name: str, view: ConfigView) -> None:
    """Reset the attention implementation of a config to the default when torch lacks the implementation."""
    for part in view.parts:
        if part._attn_implementation not in (None, *_TORCH_ATTENTION):
            logger.warning("%r asks for %s: attention is computed by torch", name, part._attn_implementation)
            part._attn_implementation = None


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """Model of a folder or hub id, with extra weights and notes for the user.

    Attributes:
        view: The model, with the head named by the config if the file has all weights of the head, else the encoder.
        extra: Weights that belong neither to the encoder nor to the head.
        missing_head: Sentence on missing weights of the head named by the config; empty if the head is complete.
        head_damage: Sentence on NaN or infinite weights of the head; empty if all are finite.
        notes: Sentences on repaired and omitted weights.
    """

    view: ModelView
    extra: ExtraWeights
    missing_head: str
    head_damage: str
    notes: tuple[str, ...]

    @property
    def model(self) -> PreTrainedModel:
        """The model of `view`."""
        return self.view.model  # type: ignore[no-any-return]

    def require_intact(self) -> LoadedCheckpoint:
        """Return the checkpoint, or raise a ModelError if the head is damaged."""
        if self.head_damage:
            raise ModelError(self.head_damage)
        return self

    def drop_damaged_head(self) -> LoadedCheckpoint:
        """Return the checkpoint, without the head if the head is damaged."""
        if not self.head_damage:
            return self
        message = f"{self.head_damage} It is left out"
        logger.warning("%s", message)
        encoder_view = self.view.encoder_view
        encoder_view.config.architectures = [type(encoder_view.model).__name__]
        return replace(self, view=encoder_view, head_damage="", notes=(*self.notes, message))


def load_model(model: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a model with the head of the checkpoint, in eval mode.

    A head with missing weights is left out with a warning, as are heads of pre-training.

    Raises:
        ModelError: As `load_checkpoint` does, or a weight of the head is NaN or infinite.
    """
    return load_view(model, dtype=dtype).model  # type: ignore[no-any-return]


def load_view(model: str | Path, *, dtype: torch.dtype = torch.float32) -> ModelView:
    """Return the view of the model that `load_model` returns."""
    return load_checkpoint(model, dtype=dtype).require_intact().view


def load_checkpoint(model: str | Path, *, dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """Load the model of a folder or hub id in eval mode, with extra weights and notes.

    Raises:
        ModelError: The weights cannot be read; one of the encoder is missing, unexpected, of another shape than the
            config says, NaN or infinite; or the head is of another shape than the config says.
    """
    view = load_config_view(model)
    config = view.config
    name = repr(str(model))
    _check_not_quantized(name, view)
    saved_class = (getattr(config, "architectures", None) or [""])[0]
    head_class = view.head_class_named(saved_class) or view.held_head_class or "Model"
    weights = read_weights(model)
    tensor_match = _match_checkpoint(name, view, head_class, weights)
    headless = ""
    if tensor_match.missing_head:
        headless = (
            f"{name} has no weights for all of the head that its config names, {saved_class or head_class} (missing "
            f"{format_names(tensor_match.missing_head)})"
        )
        head_class = "Model"
        tensor_match = _match_checkpoint(name, view, head_class, weights)
    if problem := describe_head_misfit(tensor_match):
        raise ModelError(f"The head of {name} does not fit its config: {problem}.")
    non_finite = describe_non_finite(tensor_match.head)
    notes = (*_checkpoint_notes(name, weights, tensor_match, headless), *find_adapters(model, view).notes)
    for note in notes:
        logger.warning("%s", note)
    return LoadedCheckpoint(
        view=_load_weights(model, view, head_class, tensor_match, dtype=dtype),
        extra=ExtraWeights(tensors=tensor_match.extra, prefix=tensor_match.prefix),
        missing_head=headless,
        head_damage=f"The head of {name} cannot be used: {non_finite}." if non_finite else "",
        notes=notes,
    )


def _check_not_quantized(name: str, view: ConfigView) -> None:
    """Raise a ModelError if the weights are quantized according to a config."""
    for part in view.parts:
        if (settings := getattr(part, "quantization_config", None)) is not None:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise ModelError(
                f"{name} is quantized{f' ({method})' if method else ''}, by the quantization_config in its config: "
                "expected a model with floating-point weights, such as the one it was made from."
            )


def _match_checkpoint(name: str, view: ConfigView, head_class: str, weights: CheckpointTensors) -> TensorMatch:
    """Match the weights of a checkpoint with the model of a config.

    Raises:
        ModelError: The weights do not fit the encoder, or are missing in a cut head, which cannot be new.
    """
    tensor_match = match_tensors(
        weights.tensors, ModelView(skeleton(_class_config(view, head_class), head_class)), optional=OPTIONAL_PARAMETERS
    )
    is_cut = view.holds_encoder and bool(getattr(view.config, "secateur", None))
    if (
        problem := f"missing {format_names(tensor_match.missing_head)}"
        if tensor_match.missing_head and is_cut
        else describe_misfit(tensor_match)
    ):
        raise ModelError(f"The weights of {name} do not fit its config: {problem}.")
    if problem := describe_non_finite(tensor_match.encoder):
        raise ModelError(f"The weights of {name} cannot be used: {problem}.")
    return tensor_match


def _checkpoint_notes(name: str, weights: CheckpointTensors, tensor_match: TensorMatch, headless: str) -> Iterator[str]:
    """Yield notes on a checkpoint for the user, in sentences."""
    if weights.load_note:
        yield f"{name}: {weights.load_note}"
    if headless:
        yield f"{headless}: the encoder is read without it, and a task begins with a new head"
    if tensor_match.split_weight_norms:
        yield f"{name}: the weight norm folded into {format_names(tensor_match.split_weight_norms)} is split off again"
    if tensor_match.extra:
        owner = "its encoder and head" if tensor_match.head else "its encoder"
        names = format_names(tensor_match.extra)
        yield f"{name} has weights beside {owner}, which a cut model keeps where they fit: {names}"
    if problem := describe_non_finite(tensor_match.extra):
        yield f"{name}: beside its encoder {problem}"


def _load_weights(
    source: str | Path, view: ConfigView, head_class: str, tensor_match: TensorMatch, *, dtype: torch.dtype
) -> ModelView:
    """Load the weights of a checkpoint into the model of a config; missing optional weights are drawn with seed 0."""
    config = copy.deepcopy(_class_config(view, head_class))
    cls: Any = class_for(config, head_class)
    config.architectures = [cls.__name__]
    settings = _load_generation_config(source) if cls.can_generate() else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded_model, info = cls.from_pretrained(
            None, config=config, state_dict=tensor_match.state_dict, dtype=dtype, output_loading_info=True, **settings
        )
    check_loaded_weights(loaded_model, info, optional_names=OPTIONAL_PARAMETERS)
    guard_convolutions(loaded_model)
    loaded_model.config.name_or_path = str(source)  # where transformers looks for adapters
    return ModelView(loaded_model.eval())


def _class_config(view: ConfigView, head_class: str) -> Any:
    """Return the config to build a class from: of the encoder alone for the class without a head."""
    return view.config if head_class != "Model" else view.encoder_config


def _load_generation_config(source: str | Path) -> dict[str, GenerationConfig]:
    """Return the generation config of a folder as keyword arguments of `from_pretrained`.

    Raises:
        ModelError: The file is unreadable or has invalid settings.
    """
    path = find_file(source, "generation_config.json")
    if path is None:
        return {}
    try:
        return {"generation_config": GenerationConfig.from_pretrained(path.parent)}
    except Exception as error:  # transformers raises errors of many types
        raise ModelError(f"{str(path)!r} cannot be used: {describe_cause(error)}.") from None


def with_head(view: ModelView, head_class: str, fields: dict[str, Any], *, seed: int) -> ModelView:
    """Return a model with a new task head on the encoder, with shared encoder weights.

    Args:
        view: The encoder, with or without a head, which is dropped.
        head_class: Ending of the class name, such as ``ForCTC``.
        fields: Config fields of the head, such as ``vocab_size``.
        seed: Seed of the initial weights of the head.

    Raises:
        ModelError: The family has no such class.
    """
    config = copy.deepcopy(view.encoder_config)
    model_type = view.model_type
    if head_class not in head_classes(model_type):
        allowed = ", ".join(head_classes(model_type))
        supporting_families = ", ".join(family for family in FAMILIES if head_class in head_classes(family))
        alternatives_note = f"; there is of {supporting_families}" if supporting_families else ""
        raise ModelError(f"There is no {head_class} of {model_type} models; allowed are {allowed}{alternatives_note}.")
    if head_class in FAMILIES[model_type].composite_model_types:
        config = make_composite_config(config, head_class, fields)
    else:
        config.update(fields)
    config.architectures = [class_for(config, head_class).__name__]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new_model: Any = build_model(config, head_class)
    new_view = ModelView(new_model)
    new_view.encoder.load_state_dict(view.encoder.state_dict(), strict=True, assign=True)
    new_model.to(view.model.dtype).eval()
    return new_view
