"""Factorization of linear maps by singular value decomposition, so that ranks can be pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PreTrainedModel

from secateur.errors import ConfigError, did_you_mean
from secateur.hf.model_view import ConfigView, ModelView
from secateur.nn.low_rank import factorize_matrix
from secateur.structure import Selection, Structure, normalize
from secateur.structure import axis as names
from secateur.surgery.cut import cut_config, cut_view, rebuild_model

#: Ranks that a factorized map starts with: all, as many as cost no more than the dense map, or a number.
InitialRanks = Literal["full", "break_even"] | int


def factorize(model: PreTrainedModel, ranks: Mapping[str, int]) -> PreTrainedModel:
    """Return a copy of a model with linear maps factorized, of secateur's classes.

    With all ranks the copy computes the same except for rounding; with fewer, each map is the best approximation of
    its rank in the Frobenius norm (truncated singular value decomposition).

    Args:
        model: A supported model, stock or cut, with or without a task head.
        ranks: Number of ranks that each map keeps, by path in the base model.

    Raises:
        ConfigError: A path is no linear map, or the ranks are more than a map has.
    """
    factorized_model = factorize_view(ModelView(model), ranks).model
    assert isinstance(factorized_model, PreTrainedModel)
    return factorized_model


def factorize_view(view: ModelView, ranks: Mapping[str, int]) -> ModelView:
    """Return the view of the model that `factorize` returns."""
    config_view = factorized_config(view, ranks)
    # A cut that removes nothing moves the weights into secateur's classes, which can have factorized maps.
    registered_view = cut_view(view, Selection(axes={}), break_even=False)
    new_structure = config_view.structure
    base = registered_view.encoder
    parameters, buffers = dict(base.named_parameters()), dict(base.named_buffers())
    state = {buffer.name: buffers[buffer.name] for buffer in new_structure.buffers}
    state |= {
        weight.name: parameters[weight.name].detach() for weight in new_structure.weights if weight.name in parameters
    }
    for linear in new_structure.factorizations:
        if linear.module not in ranks:
            continue
        # (out, in) -> (out, ranks), (ranks, in), by falling singular values: the first ranks are the best approximation
        outer, inner = factorize_matrix(parameters[linear.dense.name])
        state[linear.outer] = outer[:, : ranks[linear.module]].contiguous()
        state[linear.inner] = inner[: ranks[linear.module]].contiguous()
        # outer (inner x) + bias: the bias belongs to the second product.
        if f"{linear.module}.bias" in parameters:
            state[f"{linear.module}.outer.bias"] = parameters[f"{linear.module}.bias"].detach()
    return rebuild_model(registered_view, config_view, state)


def factorized_config(view: ConfigView, ranks: Mapping[str, int]) -> ConfigView:
    """Return the config of a model with linear maps factorized.

    Raises:
        ConfigError: A path is no linear map, or the ranks are more than a map has.
    """
    structure = view.structure
    new_view = cut_config(view, structure, normalize(structure, Selection(axes={})).selection, break_even=False)
    max_ranks = max_ranks_by_path(structure)
    record: dict[str, Any] = new_view.encoder_config.secateur
    for path, count in ranks.items():
        if path not in max_ranks:
            raise ConfigError(
                f"{path!r} is no linear map of this {structure.model_type} model.{did_you_mean(path, max_ranks)}"
            )
        if not 1 <= count <= max_ranks[path]:
            raise ConfigError(f"{path!r} has {max_ranks[path]} ranks: got {count}, allowed are 1 to {max_ranks[path]}.")
        record.setdefault("factorised", {})[path] = max_ranks[path]
        if count < max_ranks[path]:
            # {"encoder.layers.0.attention.q_proj/rank": "0-63"} for 64 ranks
            record["axes"][names.ranks(path)] = names.to_ranges(range(count))
    return new_view


def max_ranks_by_path(structure: Structure) -> dict[str, int]:
    """Return the number of ranks of every linear map that can be factorized, by path."""
    shapes = {use.module: structure.weight_by_name[use.weight].shape for use in structure.mac_terms if use.weight}
    factor_paths = {
        name.rpartition(".")[0] for linear in structure.factorizations for name in (linear.inner, linear.outer)
    }
    # A matrix (out, in) has min(out, in) ranks. Convolutions and matrices of factorized maps are left out.
    return {path: min(shape) for path, shape in shapes.items() if len(shape) == 2 and path not in factor_paths}


def resolve_ranks(structure: Structure, linears: Sequence[str], start: InitialRanks = "full") -> dict[str, int]:
    """Return the initial ranks of named linear maps, by path.

    Args:
        structure: Structure of the model that is to be factorized.
        linears: Paths or their last parts, such as ``q_proj`` for the query projection of every layer.
        start: Initial ranks of each map.

    Raises:
        ConfigError: A name is no linear map, or the ranks are more than a map has.
    """
    max_ranks = max_ranks_by_path(structure)
    ranks: dict[str, int] = {}
    for name in linears:
        # "q_proj" and "attention.q_proj" match "encoder.layers.0.attention.q_proj"; "proj" does not.
        matching_paths = [path for path in max_ranks if f".{path}".endswith(f".{name}")]
        if not matching_paths:
            raise ConfigError(f"factorise.linears: {_explain_unknown_linear(structure, name, max_ranks)}")
        for path in matching_paths:
            outputs, inputs = structure.weight_by_name[f"{path}.weight"].shape
            # ranks * (outputs + inputs) <= outputs * inputs: at most 614 ranks for 768 x 3072
            break_even_rank = max(1, outputs * inputs // (outputs + inputs))
            ranks[path] = (
                {"full": max_ranks[path], "break_even": break_even_rank}[start] if isinstance(start, str) else start
            )
            if ranks[path] > max_ranks[path]:
                raise ConfigError(
                    f"factorise.start: got {start}, but {path!r} has {max_ranks[path]} ranks: allowed are 'full', "
                    f"'break_even' and whole numbers from 1 to {max_ranks[path]}."
                )
    return ranks


def _explain_unknown_linear(structure: Structure, name: str, max_ranks: Mapping[str, int]) -> str:
    """Explain in a sentence why a name is no linear map that can be factorized."""
    last_parts = list(dict.fromkeys(path.rpartition(".")[2] for path in max_ranks))
    if any(f".{linear.module}".endswith(f".{name}") for linear in structure.factorizations):
        return f"{name!r} is factorised already in this model."
    if any(f".{weight.module}.".endswith(f".{name}.") for weight in structure.weights):
        return f"{name!r} is no linear map of this {structure.model_type} model; allowed are {', '.join(last_parts)}."
    return (
        f"there is no {name!r} in this {structure.model_type} model; allowed are {', '.join(last_parts)}, or whole "
        f"paths.{did_you_mean(name, [*last_parts, *max_ranks])}"
    )
