"""Factorising: linear maps of a model as two each, from their singular values, so that ranks can be pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PreTrainedConfig, PreTrainedModel

from secateur.arch import declare
from secateur.errors import ConfigError, nearest
from secateur.masking.attach import base_of
from secateur.modules.families import encoder_config
from secateur.modules.low_rank import factors
from secateur.structure import Selection, Structure, close
from secateur.structure import axis as names
from secateur.surgery.cut import cut, cut_config, rebuilt

#: Ranks that a factorised map starts with: all; as many as cost no more than the dense map; or a number.
Start = Literal["full", "break_even"] | int


def factorise(model: PreTrainedModel, ranks: Mapping[str, int]) -> PreTrainedModel:
    """The same model with linear maps factorised, of our classes; the model itself is not touched.

    With all ranks it computes the same but for rounding; with fewer, each map is the nearest of so many ranks.

    Args:
        model: A supported model, stock or cut, with or without a task head.
        ranks: How many ranks each map keeps, by its path in the base model.

    Raises:
        ConfigError: A path that is no linear map, or more ranks than it has.
    """
    config = factorised_config(model.config, ranks)
    ours = cut(model, Selection(axes={}), break_even=False)
    new, base = declare(config), base_of(ours)
    parameters, buffers = dict(base.named_parameters()), dict(base.named_buffers())
    state = {buffer.name: buffers[buffer.name] for buffer in new.buffers}
    state |= {weight.name: parameters[weight.name].detach() for weight in new.weights if weight.name in parameters}
    for each in (each for each in new.factorised if each.module in ranks):
        outer, inner = factors(parameters[each.dense.name])
        state[each.outer] = outer[:, : ranks[each.module]].contiguous()
        state[each.inner] = inner[: ranks[each.module]].contiguous()
        if f"{each.module}.bias" in parameters:
            state[f"{each.module}.outer.bias"] = parameters[f"{each.module}.bias"].detach()
    return rebuilt(ours, config, state)


def factorised_config(config: PreTrainedConfig, ranks: Mapping[str, int]) -> PreTrainedConfig:
    """The config of a model with linear maps factorised.

    Raises:
        ConfigError: A path that is no linear map, or more ranks than it has.
    """
    structure = declare(config)
    new = cut_config(config, structure, close(structure, Selection(axes={})).selection, break_even=False)
    full = full_ranks(structure)
    record: dict[str, Any] = getattr(encoder_config(new), "secateur")  # noqa: B009 - of the config classes that we make
    for path, count in ranks.items():
        if path not in full:
            raise ConfigError(f"{path!r} is no linear map of this {structure.model_type} model.{nearest(path, full)}")
        if not 1 <= count <= full[path]:
            raise ConfigError(f"{path!r} has {full[path]} ranks: got {count}, allowed are 1 to {full[path]}.")
        record.setdefault("factorised", {})[path] = full[path]
        if count < full[path]:
            record["axes"][names.ranks(path)] = names.to_ranges(range(count))
    return new


def full_ranks(structure: Structure) -> dict[str, int]:
    """Ranks of the matrix of every linear map that can be factorised, by its path."""
    shapes = {use.module: structure.weight_by_name[use.weight].shape for use in structure.uses if use.weight}
    parts = {name.rpartition(".")[0] for each in structure.factorised for name in (each.inner, each.outer)}
    return {path: min(shape) for path, shape in shapes.items() if len(shape) == 2 and path not in parts}


def ranks_of(structure: Structure, linears: Sequence[str], start: Start = "full") -> dict[str, int]:
    """The ranks that named linear maps start with, by path.

    Args:
        structure: Of the model that is to be factorised.
        linears: Paths, or the last words of them, such as ``q_proj`` for that of every layer.
        start: How many ranks of each.

    Raises:
        ConfigError: A name of no linear map, or more ranks than one has.
    """
    full = full_ranks(structure)
    ranks: dict[str, int] = {}
    for name in linears:
        found = [path for path in full if f".{path}".endswith(f".{name}")]
        if not found:
            raise ConfigError(f"factorise.linears: {_why(structure, name, full)}")
        for path in found:
            outputs, inputs = structure.weight_by_name[f"{path}.weight"].shape
            even = max(1, outputs * inputs // (outputs + inputs))
            ranks[path] = {"full": full[path], "break_even": even}[start] if isinstance(start, str) else start
            if ranks[path] > full[path]:
                raise ConfigError(
                    f"factorise.start: got {start}, but {path!r} has {full[path]} ranks: allowed are 'full', "
                    f"'break_even' and whole numbers from 1 to {full[path]}."
                )
    return ranks


def _why(structure: Structure, name: str, full: Mapping[str, int]) -> str:
    """What a name is that names no linear map, in a sentence."""
    if any(f".{each.module}".endswith(f".{name}") for each in structure.factorised):
        return f"{name!r} is factorised already in this model."
    if any(f".{weight.module}.".endswith(f".{name}.") for weight in structure.weights):
        return f"{name!r} is no linear map of this {structure.model_type} model; allowed are {_last_words(full)}."
    allowed = [*dict.fromkeys(path.rpartition(".")[2] for path in full), *full]
    return (
        f"there is no {name!r} in this {structure.model_type} model; allowed are {_last_words(full)}, or whole paths."
        f"{nearest(name, allowed)}"
    )


def _last_words(paths: Mapping[str, int]) -> str:
    return ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths))
