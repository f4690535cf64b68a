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

from secateur.architectures import wav2vec2_axes as names
from secateur.architectures.registry import FAMILIES as ENTRIES
from secateur.hf.declare import declare
from secateur.inference import INFERENCE_MODEL_TYPES as FAST
from secateur.structure import Selection, Structure
from secateur.structure import axis as kinds
from secateur.surgery.factorize import factorize, max_ranks_by_path

FAMILIES = tuple(family for family, entry in ENTRIES.items() if not entry.composite_model_types)
#: Those whose heads' configs hold the encoder's; their attention is fused, since the stock eager softmax is float32.
FAST_CONFORMERS = tuple(family for family, entry in ENTRIES.items() if entry.composite_model_types)
SIZES = ("base", "large")
#: What positions are in each tiny Conformer, by family and size.
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

#: Largest allowed difference relative to the root mean square of the activations; the only tolerances here.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}

#: Those of which there is a form for inference.
FAST_MODELS = tuple(model for model in MODELS if model[0] in FAST)

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


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a random value, biases, norms, their statistics and the weight norm's gain included."""
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
    """A stock model with random weights, in eval mode."""
    model = getattr(transformers, ENTRIES[config.model_type].class_name(ending))(config)
    randomise(model, seed)
    return model.to(dtype).eval()


@cache
def tiny(family: str, size: str, ending: str = "Model", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny stock model, or a factorised one, made once; tests leave it as they found it."""
    if size == "low_rank":
        return factorize(tiny(family, "large", ending, dtype), max_ranks_by_path(tiny_structure(family, "large")))
    return build(tiny_config(family, size), ending, dtype)


@cache
def tiny_structure(family: str, size: str) -> Structure:
    """The structure of a tiny model."""
    return declare(tiny(family, size).config)


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
    remaining_items = st.sampled_from(ATTENTION)
    attention = st.tuples(remaining_items, *[remaining_items] * (layers - 3)).flatmap(
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

    def some(name: str, *, minimum: int = 1) -> None:
        units = structure.axes[name].units
        axes[name] = tuple(sorted(draw.sample(units, draw.randint(min(minimum, len(units)), len(units)))))

    front = [axis.name for axis in structure.axes_of_kinds(("channels",)) if axis.min_units]
    convolutions = list(zip(front, plan.channels, strict=False))
    for name, what in [*convolutions, (names.positional_groups(), plan.groups)]:
        if name not in structure.axes:
            continue
        if what == "some":
            some(name)
        elif what == "one":
            axes[name] = (draw.choice(structure.axes[name].units),)
        elif what == "none":
            axes[name] = ()
    layers = [axis.path for axis in structure.axes_of_kinds(("layer",))]
    for path, what in zip(layers, plan.attention, strict=True):
        _attention(structure, attention_of(structure, path), what, draw, axes, some)
    for layer, path in enumerate(layers):
        for turn, name in enumerate(units_of(structure, path)):
            what = plan.feed_forward[(layer + turn) % len(layers)]  # of blocks of one layer each another
            if what == "units":
                some(name)
            elif what == "dead":
                axes[name] = ()
            elif what == "removed":
                axes[kinds.block(name.rpartition("/")[0])] = ()
    for path in layers[len(layers) - plan.trimmed :]:
        axes[kinds.layer(path)] = ()
    for axis in structure.axes_of_kinds(("rank",)):
        few = draw.randint(0, axis.size // 4) if draw.random() < 0.8 else draw.randint(0, axis.size)
        axes[axis.name] = tuple(sorted(draw.sample(axis.units, few)))
    scales: dict[str, tuple[float, ...]] = {}
    if plan.scales:
        for name, axis in structure.axes.items():
            if axis.kind != "layer" and draw.random() < 0.7:
                kept_units = axes.setdefault(name, tuple(sorted(axis.units)))
                scales[name] = tuple(draw.choice((0.4, 0.8, 1.3)) + draw.random() / 8 for _ in kept_units)
    return Selection(axes=axes, scales=scales)


def attention_of(structure: Structure, layer: str) -> str:
    """The path of a layer's attention block."""
    return next(axis.path for axis in structure.axes_of_kinds(("heads",)) if axis.path.startswith(f"{layer}."))


def units_of(structure: Structure, layer: str) -> list[str]:
    """The axes of a layer's other blocks: of its feed-forward blocks and its convolution module."""
    return [axis.name for axis in structure.axes_of_kinds(("units", "channels")) if axis.path.startswith(f"{layer}.")]


def _attention(
    structure: Structure, path: str, what: str, draw: random.Random, axes: dict[str, Any], subset: Any
) -> None:
    heads = structure.axes[kinds.heads(path)].units
    if kinds.shared_query_key(path) in structure.axes and what in ("narrow", "ragged"):
        subset(kinds.shared_query_key(path), minimum=0)
        subset(kinds.shared_value_output(path))
        subset(kinds.heads(path))
    elif kinds.shared_query_key(path) in structure.axes and what == "dead":
        axes[draw.choice((kinds.heads(path), kinds.shared_value_output(path)))] = ()
    elif what == "removed":
        axes[kinds.block(path)] = ()
    elif what == "dead":
        if draw.random() < 0.5:
            axes[kinds.heads(path)] = ()
        else:
            axes.update({kinds.value_output(path, head): () for head in heads})
    elif what == "heads":
        subset(kinds.heads(path))
    elif what == "narrow" and heads:
        width = draw.randint(1, HEAD_DIM)
        for head in heads:
            for name in (kinds.query_key(path, head), kinds.value_output(path, head)):
                units = structure.axes[name].units
                axes[name] = tuple(sorted(draw.sample(units, min(width, len(units)))))
    elif what == "ragged" and len(heads) > 2:
        for head in heads:
            subset(kinds.query_key(path, head), minimum=0)
            subset(kinds.value_output(path, head), minimum=0)
        dead, uniform, alive = draw.sample(heads, 3)
        axes[kinds.value_output(path, dead)] = ()
        axes[kinds.query_key(path, uniform)] = ()
        subset(kinds.value_output(path, uniform))
        subset(kinds.value_output(path, alive))


def audio(lengths: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Random audio, zero behind each length, and its mask; no mask when all are of one length."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), generator=generator, dtype=torch.float64).to(dtype)
    if len(set(lengths)) == 1:
        return values, None
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return values * mask, mask


def heard(model: Any, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """What a model hears of audio: the audio, or random features of its lengths where it hears features."""
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
    """Every hidden state of a model, and last its output."""
    values, mask = heard(model, values, mask)
    result = model(values, attention_mask=mask, output_hidden_states=True)
    return [*result.hidden_states, result[0]]


def difference(reference: Tensor, other_tensor: Tensor) -> float:
    """Largest difference relative to the root mean square of the reference; infinite when shapes differ."""
    if reference.shape != other_tensor.shape:
        return float("inf")
    return float((reference - other_tensor).abs().max() / reference.square().mean().sqrt())
