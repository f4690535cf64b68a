"""Models in: a folder or a hub id to a config and a model, exactly or not at all."""

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

from secateur.arch import skeleton
from secateur.errors import ModelError, cause_of
from secateur.masking.attach import base_of
from secateur.modules.configs import holding, register_configs
from secateur.modules.families import FAMILIES, encoder_config, ending_held_by, stock_type
from secateur.modules.models import build_model, class_for, ending_of, endings, refuse_inexact
from secateur.modules.narrow_convolution import guard_convolutions
from secateur.surgery.extra import Extra, adapters_beside
from secateur.surgery.hub import companion, is_within_reach
from secateur.surgery.match import Match, head_misfit, match, misfit, not_finite, shown
from secateur.surgery.weights import Weights, read_weights

logger = logging.getLogger(__name__)

#: Parameters that some published checkpoints lack and that inference never uses: of the encoder, and of the loss of
#: speaker verification.
OPTIONAL = ("masked_spec_embed", "objective.weight")

#: Implementations of attention that need no other package.
_ATTENTION = ("eager", "sdpa")


def load_config(model: str | Path) -> PreTrainedConfig:
    """The config of a model folder (``config.json`` is enough) or hub id.

    Raises:
        ModelError: There is none, it cannot be read, or its architecture is not supported.
    """
    register_configs()
    folder = Path(model)
    if folder.is_dir() or folder.suffix == ".json" or str(model).startswith((".", "/")):
        path = folder if folder.suffix == ".json" else folder / "config.json"
        if not path.is_file():
            of_run = folder / "model"
            hint = f" The model of this run is {str(of_run)!r}." if (of_run / path.name).is_file() else ""
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
    here = "" if folder.exists() else "there is no such folder here, and as a hub id: "
    try:
        if source is model and not is_within_reach(str(model)):
            host = urlparse(constants.ENDPOINT).hostname
            raise ModelError(
                f"The config of {str(model)!r} cannot be used: {here}the name {host} does not resolve; check the path, "
                "or the network."
            )
        config = AutoConfig.from_pretrained(source)
    except ModelError:
        raise
    except Exception as error:  # the library raises many kinds; each means the config is of no use
        raise ModelError(f"The config of {str(model)!r} cannot be used: {here}{cause_of(error)}.") from None
    stock_type(config.model_type)
    classes = config.architectures
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ModelError(
            f"The config of {str(model)!r} cannot be used: architectures: got {classes!r}, expected a list with the "
            "name of a class, such as ['WavLMModel']."
        )
    _use_known_attention(str(model), config)
    return config  # type: ignore[no-any-return]


def _use_known_attention(name: str, config: Any) -> None:
    """Leave the choice of how attention is computed to the library where a config asks for more than torch has."""
    for part in {id(part): part for part in (config, encoder_config(config))}.values():
        if part._attn_implementation not in (None, *_ATTENTION):
            logger.warning("%r asks for %s: attention is computed by torch", name, part._attn_implementation)
            part._attn_implementation = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as its folder or hub id has it, and what a user should know of that.

    Attributes:
        model: With the head that its config names where the file has all of it, else a bare encoder.
        extra: Weights beside the encoder and that head.
        headless: What of the head that its config names the file lacks, in words; empty where there is all of it.
        damaged: Which weights of the head are no numbers, in a sentence; empty where all are.
        notes: What was mended or left out, in sentences.
    """

    model: PreTrainedModel
    extra: Extra
    headless: str
    damaged: str
    notes: tuple[str, ...]

    def intact(self) -> Checkpoint:
        """Return this checkpoint; raise a ModelError where its head is damaged."""
        if self.damaged:
            raise ModelError(self.damaged)
        return self

    def without_damage(self) -> Checkpoint:
        """Return this checkpoint, without its head where that is damaged."""
        if not self.damaged:
            return self
        note = f"{self.damaged} It is left out"
        logger.warning("%s", note)
        encoder: Any = base_of(self.model)
        encoder.config.architectures = [type(encoder).__name__]
        return replace(self, model=encoder, damaged="", notes=(*self.notes, note))


def load_model(model: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model with the head that its checkpoint has, in eval mode.

    A head that the config names and of which the file lacks a part is left out, which the log tells; so are heads that
    only pre-training used.

    Raises:
        ModelError: As `load_checkpoint` does, or a weight of the head is NaN or infinite.
    """
    return load_checkpoint(model, dtype=dtype).intact().model


def load_checkpoint(model: str | Path, *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Return the model of a folder or hub id in eval mode, and what lies beside it.

    Raises:
        ModelError: The weights cannot be read; one of the encoder is missing, unexpected, of another shape than the
            config says, NaN or infinite; or the head is of another shape than the config says.
    """
    config: Any = load_config(model)
    name = repr(str(model))
    _refuse_quantized(name, config)
    saved = (getattr(config, "architectures", None) or [""])[0]
    ending = ending_of(saved, stock_type(config.model_type)) or ending_held_by(config) or "Model"
    weights = read_weights(model)
    parts = _parts(name, config, ending, weights)
    headless = ""
    if parts.headless:
        headless = (
            f"{name} has no weights for all of the head that its config names, {saved or ending} (missing "
            f"{shown(parts.headless)})"
        )
        ending = "Model"
        parts = _parts(name, config, ending, weights)
    if problem := head_misfit(parts):
        raise ModelError(f"The head of {name} does not fit its config: {problem}.")
    broken = not_finite(parts.head)
    notes = (*_notes(name, weights, parts, headless), *adapters_beside(model, config).notes)
    for note in notes:
        logger.warning("%s", note)
    return Checkpoint(
        model=_filled(model, config, ending, parts, dtype=dtype),
        extra=Extra(tensors=parts.extra, prefix=parts.prefix),
        headless=headless,
        damaged=f"The head of {name} cannot be used: {broken}." if broken else "",
        notes=notes,
    )


def _refuse_quantized(name: str, config: Any) -> None:
    """Raise a ModelError when a config says that the weights are quantized."""
    for part in (config, encoder_config(config)):
        if (settings := getattr(part, "quantization_config", None)) is not None:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise ModelError(
                f"{name} is quantized{f' ({method})' if method else ''}, by the quantization_config in its config: "
                "expected a model with floating-point weights, such as the one it was made from."
            )


def _parts(name: str, config: Any, ending: str, weights: Weights) -> Match:
    """Return what the weights of a checkpoint are to the model of a config.

    Raises:
        ModelError: They are not those of its encoder, or of a head that was cut, which cannot be new.
    """
    parts = match(weights.tensors, skeleton(_described(config, ending), ending), optional=OPTIONAL)
    is_cut = encoder_config(config) is not config and bool(getattr(config, "secateur", None))
    if problem := f"missing {shown(parts.headless)}" if parts.headless and is_cut else misfit(parts):
        raise ModelError(f"The weights of {name} do not fit its config: {problem}.")
    if problem := not_finite(parts.encoder):
        raise ModelError(f"The weights of {name} cannot be used: {problem}.")
    return parts


def _notes(name: str, weights: Weights, parts: Match, headless: str) -> Iterator[str]:
    """Yield what a user should know of a checkpoint, in sentences."""
    if weights.note:
        yield f"{name}: {weights.note}"
    if headless:
        yield f"{headless}: the encoder is read without it, and a task begins with a new head"
    if parts.unfolded:
        yield f"{name}: the weight norm folded into {shown(parts.unfolded)} is split off again"
    if parts.extra:
        beside = "its encoder and head" if parts.head else "its encoder"
        yield f"{name} has weights beside {beside}, which a cut model keeps where they fit: {shown(parts.extra)}"
    if problem := not_finite(parts.extra):
        yield f"{name}: beside its encoder {problem}"


def _filled(source: str | Path, config: Any, ending: str, parts: Match, *, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a config with the weights of a checkpoint; the few that may be missing follow from a seed."""
    config = copy.deepcopy(_described(config, ending))
    cls: Any = class_for(config, ending)
    config.architectures = [cls.__name__]
    settings = _generation(source) if cls.can_generate() else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded, info = cls.from_pretrained(
            None, config=config, state_dict=parts.state_dict, dtype=dtype, output_loading_info=True, **settings
        )
    refuse_inexact(loaded, info, optional=OPTIONAL)
    guard_convolutions(loaded)
    loaded.config.name_or_path = str(source)  # where the library looks for adapters
    return loaded.eval()  # type: ignore[no-any-return]


def _described(config: Any, ending: str) -> Any:
    """Return the config of the class with an ending: that of the encoder alone where it has no head."""
    return config if ending != "Model" else encoder_config(config)


def _generation(source: str | Path) -> dict[str, GenerationConfig]:
    """Return how a model writes text, as `from_pretrained` takes it.

    Raises:
        ModelError: The file cannot be read, or holds settings of other kinds than the library's.
    """
    path = companion(source, "generation_config.json")
    if path is None:
        return {}
    try:
        return {"generation_config": GenerationConfig.from_pretrained(path.parent)}
    except Exception as error:  # the library raises many kinds
        raise ModelError(f"{str(path)!r} cannot be used: {cause_of(error)}.") from None


def with_head(model: PreTrainedModel, ending: str, fields: dict[str, Any], *, seed: int) -> PreTrainedModel:
    """A model with a new task head on the same encoder, whose weights it takes over.

    Args:
        model: The encoder, with or without another head, which is left behind.
        ending: Of the class with the head, such as ``ForCTC``.
        fields: What the head needs in the config, such as ``vocab_size``.
        seed: Of the head's weights.

    Raises:
        ModelError: The family has no such class.
    """
    config = copy.deepcopy(encoder_config(model.config))
    model_type = stock_type(config.model_type)
    if ending not in endings(model_type):
        allowed = ", ".join(endings(model_type))
        able = ", ".join(family for family in FAMILIES if ending in endings(family))
        others = f"; there is of {able}" if able else ""
        raise ModelError(f"There is no {ending} of {model_type} models; allowed are {allowed}{others}.")
    if ending in FAMILIES[model_type].heads:
        config = holding(config, ending, fields)
    else:
        config.update(fields)
    config.architectures = [class_for(config, ending).__name__]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new: Any = build_model(config, ending)
    base_of(new).load_state_dict(base_of(model).state_dict(), strict=True, assign=True)
    return new.to(model.dtype).eval()  # type: ignore[no-any-return]
