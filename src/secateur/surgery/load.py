"""Models in: a folder or a hub id to a config and a model, exactly or not at all."""

from __future__ import annotations

import copy
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from secateur.errors import ModelError
from secateur.masking.attach import base_of
from secateur.modules.configs import holding, register_configs
from secateur.modules.families import FAMILIES, encoder_config, stock_type
from secateur.modules.models import build_model, class_for, ending_of, endings, refuse_inexact
from secateur.modules.narrow_convolution import guard_convolutions

#: Parameters that some published checkpoints lack and that inference never uses.
OPTIONAL = ("masked_spec_embed",)


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
        if source is model and not _is_within_reach(str(model)):
            host = urlparse(constants.ENDPOINT).hostname
            raise ModelError(
                f"The config of {str(model)!r} cannot be used: {here}the name {host} does not resolve; check the path, "
                "or the network."
            )
        config = AutoConfig.from_pretrained(source)
    except ModelError:
        raise
    except Exception as error:  # the library raises many kinds; each means the config is of no use
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"The config of {str(model)!r} cannot be used: {here}{first}") from None
    stock_type(config.model_type)
    return config  # type: ignore[no-any-return]


def _is_within_reach(model: str) -> bool:
    """Whether it is worth asking the hub library for a model: it finds cached files at once."""
    return isinstance(try_to_load_from_cache(model, "config.json"), str) or hub_answers()


def hub_answers() -> bool:
    """Whether it is worth asking the hub library for what is not cached; without a network it asks for half a minute.

    It is not when the hub's name does not resolve, twice; a proxy resolves names itself. On a slow or guarded network
    names do resolve, and the library goes its own way.
    """
    if is_offline_mode() or getproxies():
        return True
    for pause in (1.0, 0.0):
        try:
            socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
            return True
        except socket.gaierror:
            time.sleep(pause)
    return False


def load_model(model: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with the head that its checkpoint has, in eval mode.

    Heads that only pre-training used are left behind. Weights are read from safetensors only.

    Raises:
        ModelError: A weight of the encoder is missing, unexpected or of another shape.
    """
    config = load_config(model)
    model_type = stock_type(config.model_type)
    saved = (getattr(config, "architectures", None) or [""])[0]
    cls: Any = class_for(config, ending_of(saved, model_type) or "Model")
    try:
        loaded, info = cls.from_pretrained(
            model, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"The weights of {str(model)!r} cannot be loaded: {first}") from None
    refuse_inexact(loaded, info, optional=OPTIONAL)
    guard_convolutions(loaded)
    return loaded.eval()  # type: ignore[no-any-return]


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
