"""Tiny models of every family and random selections of their units, shared by tests."""

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

import wav2vec2_axes as names
from secateur.architectures.registry import FAMILIES as ENTRIES
from secateur.hf.declare import declare
from secateur.inference import INFERENCE_MODEL_TYPES as FAST
from secateur.structure import Selection, Structure
from secateur.structure import axis as kinds
from secateur.surgery.factorize import factorize, max_ranks_by_path

FAMILIES = tuple(family for family, entry in ENTRIES.items() if not entry.composite_model_types)
#: Families with composite configs. Their attention is fused, since the stock eager softmax is float32.
FAST_CONFORMERS = tuple(family for family, entry in ENTRIES.items() if entry.composite_model_types)
SIZES = ("base", "large")
#: Type of position embeddings of each tiny Conformer, by family and size.
POSITIONS: dict[str, dict[str, str | None]] = {
    "wav2vec2-conformer": {"base": "relative", "large": "rotary", "none": None},
    "wav2vec2-bert": {"base": "relative_key", "large": "relative", "rotary": "rotary", "none": None},
}
#: Every tiny model: GroupNorm front end, post-norm, no conv bias; or LayerNorm front end, pre-norm, conv bias; and
#: Conformers with the other kinds of positions.
MODELS = tuple((family, size) for family in FAMILIES for size in POSITIONS.get(family, SIZES))

#: Tiny models with every linear map factorised.
LOW_RANK = (("hubert", "low_rank"), ("wavlm", "low_rank"), ("wav2vec2-conformer", "low_rank"))
FAST_LOW_RANK = tuple((family, "low_rank") for family in FAST_CONFORMERS)

#: Maximum difference relative to the root mean square of the activations.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}

#: Models with a form for inference.
FAST_MODELS = tuple(model for model in MODELS if model[0] in FAST)

LAYERS, HEADS, HEAD_DIM, UNITS, CHANNELS = 3, 4, 6, 10, (6, 5, 7)


def tiny_config(family: str, size: str, **changes: Any) -> Any:
    """Return the config of a tiny model: three layers, four heads of six dimensions, 160 samples a frame."""
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
    if family in POSITIONS:
        fields |= {"position_embeddings_type": POSITIONS[family][size], "conv_depthwise_kernel_size": 5}
    if family == "wav2vec2-bert":
        fields |= {"feature_projection_input_dim": 8, "left_max_position_embeddings": 3}
        fields |= {"right_max_position_embeddings": 2}
    if family == "wavlm":
        fields |= {"num_buckets": 16, "max_bucket_distance": 12}
    if family in FAST_CONFORMERS:
        fields |= {"subsampling_conv_channels": 6, "num_mel_bins": 16, "conv_kernel_size": 5, "scale_input": not large}
        fields |= {"attention_bias": not large, "convolution_bias": not large, "attn_implementation": "sdpa"}
    if family == "nemotron_asr_streaming_encoder":
        fields |= {"sliding_window": 9, "default_num_lookahead_tokens": 1}
    return getattr(transformers, ENTRIES[family].config_name)(**(fields | changes))


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Set all parameters and norm statistics to random values, including biases and the gain of a weight norm."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            owner = modules[name.rpartition(".")[0]]
            if name.endswith("original0"):
                value: Tensor = parameter * (1.0 + 0.3 * noise)
            elif isinstance(owner, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d) and name.endswith("weight"):
                value = 1.0 + 0.4 * noise
            elif parameter.dim() >= 2 and not isinstance(owner, nn.Embedding):
                value = noise * (parameter[0].numel() ** -0.5)
            else:
                value = 0.5 * noise
            parameter.copy_(value)
        for module in modules.values():
            if isinstance(module, nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(0.5 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))


def build(config: Any, ending: str = "Model", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Return a stock model with random weights, in eval mode."""
    model = getattr(transformers, ENTRIES[config.model_type].class_name(ending))(config)
    randomize(model, seed)
    return model.to(dtype).eval()


@cache
def tiny(family: str, size: str, ending: str = "Model", dtype: torch.dtype = torch.float32) -> Any:
    """Return a tiny stock model, or a factorized model, from a cache; tests must not change the model."""
    if size == "low_rank":
        return factorize(tiny(family, "large", ending, dtype), max_ranks_by_path(tiny_structure(family, "large")))
    return build(tiny_config(family, size), ending, dtype)


@cache
def tiny_structure(family: str, size: str) -> Structure:
    """Return the structure of a tiny model."""
    return declare(tiny(family, size).config)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pattern of pruning of each part of a model; units are drawn by `seed`, and absent parts are ignored."""

    seed: int
    channels: tuple[str, ...]
    groups: str = "some"
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    trimmed: int
    scales: bool


#: A plan with several patterns in each part.
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
    """Return a strategy of plans; ragged plans have soft scales, a ragged attention block and a removed block."""
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
    attention_patterns = st.sampled_from(ATTENTION)
    attention = st.tuples(attention_patterns, *[attention_patterns] * (layers - 3)).flatmap(
        lambda remaining: st.permutations(["ragged", "removed", *remaining])
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


def make_selection(structure: Structure, plan: Plan) -> Selection:
    """Return the selection of a plan, in absolute indices, for a dense model or a cut model."""
    rng = random.Random(plan.seed)
    axes: dict[str, tuple[int, ...]] = {}

    def select_some(name: str, *, minimum: int = 1) -> None:
        units = structure.axes[name].units
        axes[name] = tuple(sorted(rng.sample(units, rng.randint(min(minimum, len(units)), len(units)))))

    front = [axis.name for axis in structure.axes_of_kinds(("channels",)) if axis.min_units]
    convolutions = list(zip(front, plan.channels, strict=False))
    for name, pattern in [*convolutions, (names.positional_groups(), plan.groups)]:
        if name not in structure.axes:
            continue
        if pattern == "some":
            select_some(name)
        elif pattern == "one":
            axes[name] = (rng.choice(structure.axes[name].units),)
        elif pattern == "none":
            axes[name] = ()
    layers = [axis.path for axis in structure.axes_of_kinds(("layer",))]
    for path, pattern in zip(layers, plan.attention, strict=True):
        _select_attention(structure, attention_of(structure, path), pattern, rng, axes, select_some)
    for layer, path in enumerate(layers):
        for block_index, name in enumerate(units_of(structure, path)):
            pattern = plan.feed_forward[(layer + block_index) % len(layers)]  # of blocks of one layer each another
            if pattern == "units":
                select_some(name)
            elif pattern == "dead":
                axes[name] = ()
            elif pattern == "removed":
                axes[kinds.block(name.rpartition("/")[0])] = ()
    for path in layers[len(layers) - plan.trimmed :]:
        axes[kinds.layer(path)] = ()
    for axis in structure.axes_of_kinds(("rank",)):
        rank_count = rng.randint(0, axis.size // 4) if rng.random() < 0.8 else rng.randint(0, axis.size)
        axes[axis.name] = tuple(sorted(rng.sample(axis.units, rank_count)))
    scales: dict[str, tuple[float, ...]] = {}
    if plan.scales:
        for name, axis in structure.axes.items():
            if axis.kind != "layer" and rng.random() < 0.7:
                selected_units = axes.setdefault(name, tuple(sorted(axis.units)))
                scales[name] = tuple(rng.choice((0.4, 0.8, 1.3)) + rng.random() / 8 for _ in selected_units)
    return Selection(axes=axes, scales=scales)


def attention_of(structure: Structure, layer: str) -> str:
    """Return the path of the attention block of a layer."""
    return next(axis.path for axis in structure.axes_of_kinds(("heads",)) if axis.path.startswith(f"{layer}."))


def units_of(structure: Structure, layer: str) -> list[str]:
    """Return the axes of the feed-forward blocks and the convolution module of a layer."""
    return [axis.name for axis in structure.axes_of_kinds(("units", "channels")) if axis.path.startswith(f"{layer}.")]


def _select_attention(
    structure: Structure, path: str, pattern: str, rng: random.Random, axes: dict[str, Any], subset: Any
) -> None:
    heads = structure.axes[kinds.heads(path)].units
    if kinds.shared_query_key(path) in structure.axes and pattern in ("narrow", "ragged"):
        subset(kinds.shared_query_key(path), minimum=0)
        subset(kinds.shared_value_output(path))
        subset(kinds.heads(path))
    elif kinds.shared_query_key(path) in structure.axes and pattern == "dead":
        axes[rng.choice((kinds.heads(path), kinds.shared_value_output(path)))] = ()
    elif pattern == "removed":
        axes[kinds.block(path)] = ()
    elif pattern == "dead":
        if rng.random() < 0.5:
            axes[kinds.heads(path)] = ()
        else:
            axes.update({kinds.value_output(path, head): () for head in heads})
    elif pattern == "heads":
        subset(kinds.heads(path))
    elif pattern == "narrow" and heads:
        width = rng.randint(1, HEAD_DIM)
        for head in heads:
            for name in (kinds.query_key(path, head), kinds.value_output(path, head)):
                units = structure.axes[name].units
                axes[name] = tuple(sorted(rng.sample(units, min(width, len(units)))))
    elif pattern == "ragged" and len(heads) > 2:
        for head in heads:
            subset(kinds.query_key(path, head), minimum=0)
            subset(kinds.value_output(path, head), minimum=0)
        dead, uniform, alive = rng.sample(heads, 3)
        axes[kinds.value_output(path, dead)] = ()
        axes[kinds.query_key(path, uniform)] = ()
        subset(kinds.value_output(path, uniform))
        subset(kinds.value_output(path, alive))


def audio(lengths: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Return random audio, zero after each length, and the mask; no mask if all lengths are equal."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), generator=generator, dtype=torch.float64).to(dtype)
    if len(set(lengths)) == 1:
        return values, None
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return values * mask, mask


def model_inputs(model: Any, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return inputs of a model and the mask: the audio, or random features of the same length for a feature model."""
    if model.main_input_name != "input_features":
        return values, mask
    structure = declare(model.config)
    samples = [values.shape[1]] * len(values) if mask is None else mask.sum(-1).tolist()
    lengths = torch.tensor([structure.input_length(max(structure.min_samples, length)) for length in samples])
    shape = structure.input_shape(len(values), max([structure.min_samples, *samples]))
    generator = torch.Generator().manual_seed(len(values) + values.shape[1])
    features = torch.randn(shape, generator=generator, dtype=torch.float64).to(values.dtype)
    valid = (torch.arange(shape[1]) < lengths[:, None]).long()
    return features * valid[..., None], None if mask is None else valid


@torch.no_grad()
def outputs(model: PreTrainedModel, values: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Return all hidden states of a model, and last the output."""
    values, mask = model_inputs(model, values, mask)
    result = model(values, attention_mask=mask, output_hidden_states=True)
    return [*result.hidden_states, result[0]]


def difference(reference: Tensor, tensor: Tensor) -> float:
    """Return the largest difference relative to the root mean square of `reference`; infinite if shapes differ."""
    if reference.shape != tensor.shape:
        return float("inf")
    return float((reference - tensor).abs().max() / reference.square().mean().sqrt())
