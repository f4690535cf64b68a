"""Tiny models of every family, and random selections of them, for tests that compare one thing with another."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.modules.families import FAMILIES as ENTRIES
from secateur.structure import Selection, Structure
from secateur.structure import wav2vec2 as names

FAMILIES = tuple(ENTRIES)
SIZES = ("base", "large")
#: Every tiny model: GroupNorm front end, post-norm, no conv bias; or LayerNorm front end, pre-norm, conv bias.
MODELS = tuple((family, size) for family in FAMILIES for size in SIZES)

#: Largest allowed difference relative to the root mean square of the activations; the only tolerances here.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}

LAYERS, HEADS, HEAD_DIM, UNITS, CHANNELS = 3, 4, 6, 10, (6, 5, 7)


def tiny_config(family: str, size: str, **changes: Any) -> Any:
    """The config of a tiny model: three layers, four heads of six dimensions, 160 samples a frame."""
    large = size == "large"
    fields: dict[str, Any] = {
        "hidden_size": HEADS * HEAD_DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": UNITS,
        "conv_dim": list(CHANNELS),
        "conv_kernel": [10, 3, 2],
        "conv_stride": [10, 4, 4],
        "conv_bias": large,
        "feat_extract_norm": "layer" if large else "group",
        "do_stable_layer_norm": large,
        "num_conv_pos_embedding_groups": 4,
        "num_conv_pos_embeddings": 7 if large else 8,
        "vocab_size": 9,
        "num_labels": 3,
        "classifier_proj_size": 5,
        "attn_implementation": "eager",
    }
    if family == "data2vec-audio":
        fields |= {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
    if family == "wavlm":
        fields |= {"num_buckets": 16, "max_bucket_distance": 12}
    return getattr(transformers, f"{ENTRIES[family].stem}Config")(**(fields | changes))


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a random value, biases, norms and the weight norm's gain included."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            owner = modules[name.rpartition(".")[0]]
            if name.endswith("original0"):
                value: Tensor = parameter * (1.0 + 0.3 * noise)
            elif isinstance(owner, nn.LayerNorm | nn.GroupNorm) and name.endswith("weight"):
                value = 1.0 + 0.4 * noise
            elif parameter.dim() >= 2 and not isinstance(owner, nn.Embedding):
                value = noise * (parameter[0].numel() ** -0.5)
            else:
                value = 0.5 * noise
            parameter.copy_(value)


def build(config: Any, ending: str = "Model", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A stock model with random weights, in eval mode."""
    model = getattr(transformers, ENTRIES[config.model_type].stem + ending)(config)
    randomise(model, seed)
    return model.to(dtype).eval()


@cache
def tiny(family: str, size: str, ending: str = "Model", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny stock model, made once; tests leave it as they found it."""
    return build(tiny_config(family, size), ending, dtype)


@cache
def tiny_structure(family: str, size: str) -> Structure:
    """The structure of a tiny model."""
    return declare(tiny_config(family, size))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens to each part of a model, where it has the part; the units themselves are drawn from `seed`."""

    seed: int
    channels: tuple[str, ...]
    groups: str = "some"
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    trimmed: int
    scales: bool


#: A plan with a little of everything.
RAGGED = Plan(
    seed=3,
    channels=("some", "some", "whole"),
    attention=("ragged", "removed", "narrow"),
    feed_forward=("units", "dead", "removed"),
    trimmed=0,
    scales=True,
)

CONV = ("whole", "some", "one", "none")
ATTENTION = ("whole", "heads", "narrow", "ragged", "dead", "removed")
FEED_FORWARD = ("whole", "units", "dead", "removed")


def plans(*, ragged: bool, layers: int = LAYERS, convolutions: int = len(CHANNELS)) -> st.SearchStrategy[Plan]:
    """Plans; ragged ones have soft scales, ragged heads with a dead and a uniform one, and a removed block."""
    seed = st.integers(0, 2**31)
    conv = st.tuples(*[st.sampled_from(CONV)] * convolutions)
    groups = st.sampled_from(CONV)
    if not ragged:
        return st.builds(
            Plan,
            seed=seed,
            channels=conv,
            groups=groups,
            attention=st.tuples(*[st.sampled_from(ATTENTION)] * layers),
            feed_forward=st.tuples(*[st.sampled_from(FEED_FORWARD)] * layers),
            trimmed=st.integers(0, layers - 1),
            scales=st.booleans(),
        )
    others = st.sampled_from(ATTENTION)
    attention = st.tuples(others, *[others] * (layers - 3)).flatmap(
        lambda rest: st.permutations(["ragged", "removed", *rest])
    )
    units = st.permutations(["units", "dead", "removed", *["units"] * (layers - 3)])
    return st.builds(
        Plan,
        seed=seed,
        channels=conv,
        groups=groups,
        attention=attention.map(tuple),
        feed_forward=units.map(tuple),
        trimmed=st.just(0),
        scales=st.just(True),
    )


def realise(structure: Structure, plan: Plan) -> Selection:
    """The selection of a plan, in absolute indices, on a model dense or cut before."""
    draw = random.Random(plan.seed)
    axes: dict[str, tuple[int, ...]] = {}

    def some(name: str, *, least: int = 1) -> None:
        units = structure.axes[name].units
        axes[name] = tuple(sorted(draw.sample(units, draw.randint(min(least, len(units)), len(units)))))

    convolutions = [(names.channels(i), what) for i, what in enumerate(plan.channels)]
    for name, what in [*convolutions, (names.positional_groups(), plan.groups)]:
        if name not in structure.axes:
            continue
        if what == "some":
            some(name)
        elif what == "one":
            axes[name] = (draw.choice(structure.axes[name].units),)
        elif what == "none":
            axes[name] = ()
    for layer, what in enumerate(plan.attention):
        _attention(structure, layer, what, draw, axes, some)
    for layer, what in enumerate(plan.feed_forward):
        if what == "units":
            some(names.feed_forward_units(layer))
        elif what == "dead":
            axes[names.feed_forward_units(layer)] = ()
        elif what == "removed":
            axes[names.feed_forward_block(layer)] = ()
    for layer in range(len(plan.attention) - plan.trimmed, len(plan.attention)):
        axes[names.whole_layer(layer)] = ()
    scales: dict[str, tuple[float, ...]] = {}
    if plan.scales:
        for name, axis in structure.axes.items():
            if axis.kind != "layer" and draw.random() < 0.7:
                kept = axes.setdefault(name, tuple(sorted(axis.units)))
                scales[name] = tuple(draw.choice((0.4, 0.8, 1.3)) + draw.random() / 8 for _ in kept)
    return Selection(axes=axes, scales=scales)


def _attention(
    structure: Structure, layer: int, what: str, draw: random.Random, axes: dict[str, Any], some: Any
) -> None:
    heads = structure.axes[names.heads(layer)].units
    if what == "removed":
        axes[names.attention_block(layer)] = ()
    elif what == "dead":
        if draw.random() < 0.5:
            axes[names.heads(layer)] = ()
        else:
            axes.update({names.value_output(layer, head): () for head in heads})
    elif what == "heads":
        some(names.heads(layer))
    elif what == "narrow" and heads:
        width = draw.randint(1, HEAD_DIM)
        for head in heads:
            for name in (names.query_key(layer, head), names.value_output(layer, head)):
                units = structure.axes[name].units
                axes[name] = tuple(sorted(draw.sample(units, min(width, len(units)))))
    elif what == "ragged" and len(heads) > 2:
        for head in heads:
            some(names.query_key(layer, head), least=0)
            some(names.value_output(layer, head), least=0)
        dead, uniform, alive = draw.sample(heads, 3)
        axes[names.value_output(layer, dead)] = ()
        axes[names.query_key(layer, uniform)] = ()
        some(names.value_output(layer, uniform))
        some(names.value_output(layer, alive))


def audio(lengths: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Random audio, zero behind each length, and its mask; no mask when all are of one length."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), generator=generator, dtype=torch.float64).to(dtype)
    if len(set(lengths)) == 1:
        return values, None
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return values * mask, mask


@torch.no_grad()
def outputs(model: PreTrainedModel, values: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Every hidden state of a model, and last its output."""
    result = model(values, attention_mask=mask, output_hidden_states=True)
    return [*result.hidden_states, result[0]]


def difference(reference: Tensor, other: Tensor) -> float:
    """Largest difference relative to the root mean square of the reference; infinite when shapes differ."""
    if reference.shape != other.shape:
        return float("inf")
    return float((reference - other).abs().max() / reference.square().mean().sqrt())
