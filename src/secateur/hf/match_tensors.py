"""Assignment of a checkpoint's tensors to the encoder, the head, or neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.hf.model_view import ModelView
from secateur.nn.positional_conv import direction_norm

_WEIGHT_NORM = ".parametrizations.weight.original"  # followed by 0 for the magnitude, 1 for the direction
_RENAMED_SUFFIXES = {".weight_g": f"{_WEIGHT_NORM}0", ".weight_v": f"{_WEIGHT_NORM}1"}
_MAX_LISTED_NAMES = 3

#: Config fields with the size of a part of a head, by the first component of the part's name.
_HEAD_SIZE_FIELDS = {
    "lm_head": "vocab_size",
    "ctc_head": "vocab_size",
    "joint": "vocab_size and decoder_hidden_size",
    "decoder": "vocab_size and decoder_hidden_size",
    "encoder_projector": "decoder_hidden_size",
    "classifier": "num_labels (or id2label)",
    "projector": "classifier_proj_size",
    "tdnn": "tdnn_dim and tdnn_kernel",
    "feature_extractor": "xvector_output_dim",
    "layer_weights": "num_hidden_layers",
}
#: Config fields with the number of parts of a head, by the first component of the parts' names.
_HEAD_COUNT_FIELDS = {
    "decoder": "num_decoder_layers",
    "tdnn": "tdnn_dim",
    "layer_weights": "use_weighted_layer_sum",
}
#: Endings of classes with a weighted sum of all layers, if enabled by the config.
_LAYER_SUM_CLASSES = ("ForSequenceClassification", "ForAudioFrameClassification", "ForXVector")


@dataclass(frozen=True, kw_only=True)
class TensorMatch:
    """Tensors of a checkpoint, matched with a model.

    Attributes:
        encoder: Tensors of the encoder, by name in the encoder.
        head: Tensors of the head, by name in the model.
        extra: Remaining tensors, by name in the file.
        prefix: Prefix of the names of the encoder's tensors in the file.
        model_prefix: Prefix of the names of the encoder's tensors in the model.
        missing_encoder: Names of the encoder's tensors that the file lacks.
        missing_head: Names of the head's tensors that the file lacks.
        unexpected_head: Names in the file of tensors of the head that the model has no place for.
        misshaped: Shapes in the file and by the config, where these differ, by name in the model.
        non_float: Dtypes in the file of non-floating-point tensors where the model has floating-point tensors, by name
            in the model.
        split_weight_norms: Names of weights with a folded weight norm, split into magnitude and direction again.
    """

    encoder: dict[str, Tensor]
    head: dict[str, Tensor]
    extra: dict[str, Tensor]
    prefix: str
    model_prefix: str
    missing_encoder: tuple[str, ...]
    missing_head: tuple[str, ...]
    unexpected_head: tuple[str, ...]
    misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    non_float: Mapping[str, torch.dtype]
    split_weight_norms: tuple[str, ...]

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of encoder and head, by name in the model."""
        return {self.model_prefix + name: value for name, value in self.encoder.items()} | self.head

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Names in the file of unknown tensors in modules of the encoder."""
        encoder_parts = {name.partition(".")[0] for name in (*self.encoder, *self.missing_encoder)}
        prefixed_names = (name for name in self.extra if name.startswith(self.prefix))
        return tuple(
            name for name in prefixed_names if name.removeprefix(self.prefix).partition(".")[0] in encoder_parts
        )


def match_tensors(tensors: Mapping[str, Tensor], view: ModelView, *, optional: Collection[str] = ()) -> TensorMatch:
    """Match the tensors of a checkpoint with a model.

    Names in a checkpoint may start with the encoder's path, as ``wavlm.encoder.layers.0``, or with the path of a
    wrapper before that, or with neither. Tensors of weight norm may have the names of older versions of torch.

    Args:
        tensors: The tensors, by name in the file.
        view: A model of the class to load, on the meta device.
        optional: Names of the encoder's or the model's tensors that may be missing.

    Raises:
        ModelError: The file holds several encoders.
    """
    model = view.model
    model_prefix = view.prefix
    state = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    encoder = {name.removeprefix(model_prefix) for name in expected if name.startswith(model_prefix)}
    prefix = _find_prefix(tensors, encoder, usual_names=("", model_prefix, f"{model.base_model_prefix}."))
    wrapper_prefix = prefix.removesuffix(f"{model.base_model_prefix}.")
    encoder_tensors: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for name, value in tensors.items():
        encoder_name, model_name = _current_name(name.removeprefix(prefix)), name.removeprefix(wrapper_prefix)
        if name.startswith(prefix) and encoder_name in encoder:
            encoder_tensors[encoder_name] = value
        elif model_prefix and model_name in expected and not model_name.startswith(model_prefix):
            head[model_name] = value
        else:
            extra[name] = value
    unfolded = _split_folded_weights(encoder_tensors, extra, encoder, prefix)
    loaded = {model_prefix + name: value for name, value in encoder_tensors.items()} | head
    head_names = [name for name in expected if model_prefix and not name.startswith(model_prefix)]
    head_parts = {name.partition(".")[0] for name in head_names}
    head_parts |= {"layer_weights"} if type(model).__name__.endswith(_LAYER_SUM_CLASSES) else set()
    return TensorMatch(
        encoder=encoder_tensors,
        head=head,
        extra=extra,
        prefix=prefix,
        model_prefix=model_prefix,
        missing_encoder=tuple(name for name in sorted(encoder - encoder_tensors.keys()) if name not in optional),
        missing_head=tuple(name for name in head_names if name not in head and name not in optional),
        unexpected_head=tuple(
            name for name in extra if name.removeprefix(wrapper_prefix).partition(".")[0] in head_parts
        ),
        misshaped={
            name: (tuple(loaded[name].shape), shape)
            for name, shape in expected.items()
            if name in loaded and tuple(loaded[name].shape) != shape
        },
        non_float={
            name: value.dtype
            for name, value in loaded.items()
            if state[name].is_floating_point() and not value.is_floating_point()
        },
        split_weight_norms=unfolded,
    )


def _find_prefix(names: Iterable[str], encoder: Collection[str], *, usual_names: Collection[str]) -> str:
    """Return the most frequent prefix of the encoder's names in a file.

    With names "a", "b" in the encoder and "model.a", "model.b", "ema.a" in the file the prefix is "model.".

    Args:
        names: Names in the file.
        encoder: Names in the encoder.
        usual_names: Prefixes that are preferred when several are equally frequent.
    """
    prefix_counts: Counter[str] = Counter()
    for name in map(_current_name, names):
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in encoder:
                prefix_counts[".".join(parts[:start]) + ("." if start else "")] += 1
    if not prefix_counts:
        return ""
    max_count = max(prefix_counts.values())
    best_prefixes = [prefix for prefix, count in prefix_counts.items() if count == max_count]
    usual_prefixes = [prefix for prefix in best_prefixes if prefix in usual_names]
    if len(best_prefixes) > 1 and not usual_prefixes:
        raise ModelError(f"The file holds several encoders, under {', '.join(map(repr, best_prefixes))}: expected one.")
    return (usual_prefixes or best_prefixes)[0]


def _current_name(name: str) -> str:
    """Return a tensor's name in present versions of torch, which renamed the tensors of weight norm."""
    for old_suffix, new_suffix in _RENAMED_SUFFIXES.items():
        if name.endswith(old_suffix):
            return name.removesuffix(old_suffix) + new_suffix
    return name


def _split_folded_weights(
    encoder_tensors: dict[str, Tensor], extra: dict[str, Tensor], encoder: Collection[str], prefix: str
) -> tuple[str, ...]:
    """Split weights with a folded weight norm into magnitude and direction, in place.

    The direction is the weight and the magnitude is the norm of the weight, so that weight norm restores the weight.
    """
    folded_names = []
    for name in sorted(encoder):
        path = name.removesuffix(f"{_WEIGHT_NORM}1")
        weight = extra.get(f"{prefix}{path}.weight")
        if (
            path == name
            or weight is None
            or weight.dim() != 3
            or name in encoder_tensors
            or f"{path}{_WEIGHT_NORM}0" in encoder_tensors
        ):
            continue
        encoder_tensors[f"{path}{_WEIGHT_NORM}0"], encoder_tensors[name] = _split_weight_norm(weight)
        folded_names.append(f"{path}.weight")
        del extra[f"{prefix}{path}.weight"]
    return tuple(folded_names)


def _split_weight_norm(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return magnitude (1, 1, taps) and direction (out, in, taps) of the weight of a positional convolution.

    A tap of zeros gets the direction of ones at magnitude zero, since weight norm would divide zero by zero. Tensors in
    half precision become float32, because a rounded norm would change the weight.
    """
    if weight.is_floating_point() and weight.itemsize < torch.float32.itemsize:
        weight = weight.float()
    norm = direction_norm(weight, weight.new_empty(1, 1, weight.shape[-1]))
    direction = torch.where((norm == 0).expand_as(weight), torch.ones_like(weight), weight)
    return norm.to(weight.dtype), direction


def describe_misfit(match: TensorMatch) -> str:
    """Return a phrase on weights of the encoder that do not fit the config, or an empty string."""
    misshaped = _misshaped_names(match, head=False)
    problems = [
        f"{word} {format_names(names)}"
        for word, names in (("missing", match.missing_encoder), ("unexpected", match.unexpected))
        if names
    ]
    if dtype_problem := _describe_dtypes(match, head=False):
        problems.append(dtype_problem)
    elif misshaped:
        problems.append(
            f"{_describe_sizes(misshaped[0], match)}{f', and {len(misshaped) - 1} more' if len(misshaped) > 1 else ''}"
        )
    return "; ".join(problems)


def describe_head_misfit(match: TensorMatch) -> str:
    """Return a phrase on weights of the head that do not fit the config, or an empty string."""
    misshaped = _misshaped_names(match, head=True)
    if dtype_problem := _describe_dtypes(match, head=True):
        return dtype_problem
    if misshaped:
        field = _HEAD_SIZE_FIELDS.get(misshaped[0].partition(".")[0])
        problem = _describe_sizes(misshaped[0], match)
    elif match.unexpected_head:
        field = next(
            (field for part, field in _HEAD_COUNT_FIELDS.items() if part in match.unexpected_head[0].split(".")), None
        )
        problem = f"the file has {format_names(match.unexpected_head)}, for which there is no place by the config"
    else:
        return ""
    return problem + (f"; see {field} in config.json" if field else "")


def describe_non_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return a phrase on tensors with NaN or infinite values, or an empty string."""
    counts = {
        name: int((~torch.isfinite(_as_computable(value))).sum())
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(_as_computable(value)).all())
    }
    if not counts:
        return ""
    name = next(iter(counts))
    more_note = f", and {len(counts) - 1} more tensors hold some" if len(counts) > 1 else ""
    return f"{counts[name]:,} of the {tensors[name].numel():,} values of {name} are NaN or infinite{more_note}"


def _as_computable(value: Tensor) -> Tensor:
    """Return eight-bit values as float32, since torch lacks arithmetic on eight-bit floats."""
    return value.float() if value.itemsize == 1 else value


def format_names(names: Iterable[str]) -> str:
    """Return the first names in alphabetical order, with the number of further names, as text."""
    sorted_names = sorted(names)
    more_note = f" and {len(sorted_names) - _MAX_LISTED_NAMES} more" if len(sorted_names) > _MAX_LISTED_NAMES else ""
    return ", ".join(sorted_names[:_MAX_LISTED_NAMES]) + more_note


def _misshaped_names(match: TensorMatch, *, head: bool) -> list[str]:
    """Return the names of misshaped tensors in the head or the encoder, matrices before vectors."""
    names = [name for name in match.misshaped if (name in match.head) == head]
    return sorted(names, key=lambda name: len(match.misshaped[name][0]) < 2)


def _describe_dtypes(match: TensorMatch, *, head: bool) -> str:
    """Return a phrase on non-floating-point tensors in the head or the encoder, or an empty string."""
    names = [name for name in match.non_float if (name in match.head) == head]
    if not names:
        return ""
    more_note = f", and {len(names) - 1} more such" if len(names) > 1 else ""
    return (
        f"{names[0]} is {str(match.non_float[names[0]]).removeprefix('torch.')} in the file, expected float{more_note}"
    )


def _describe_sizes(name: str, match: TensorMatch) -> str:
    file_size, config_size = (" x ".join(map(str, shape)) or "a single value" for shape in match.misshaped[name])
    return f"{name} is {file_size} in the file and {config_size} by the config"
