"""The tensors of a checkpoint by what they are: of the encoder, of its head, or something beside both."""

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

#: Config fields that say how large a part of a head is, by the first word of its name.
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
#: Config fields that say how many parts a head has, by the first word of their names.
_HEAD_COUNT_FIELDS = {
    "decoder": "num_decoder_layers",
    "tdnn": "tdnn_dim",
    "layer_weights": "use_weighted_layer_sum",
}
#: Endings of the classes with weights of the layers that they sum up, where their config asks for it.
_LAYER_SUM_CLASSES = ("ForSequenceClassification", "ForAudioFrameClassification", "ForXVector")


@dataclass(frozen=True, kw_only=True)
class TensorMatch:
    """What the tensors of a checkpoint are to a model.

    Attributes:
        encoder: Those of the encoder, by their names in it.
        head: Those of the model's head, by their names in the model.
        extra: All others, by their names in the file.
        prefix: What stands in front of the encoder's names in the file.
        inside: What stands in front of them in the model.
        missing: Tensors that the encoder has and the file lacks.
        headless: Tensors that the model has outside its encoder, and the file lacks.
        surplus: Those beside the encoder that are parts of the model's head, and for which it has no place.
        wrong: Sizes in the file and by the config, of tensors of the model where these differ, by name in the model.
        mistyped: Types of tensors in the file that are no floating-point numbers where the model has such, by name in
            the model.
        unfolded: Weights that the file has in place of the magnitude and direction that the encoder keeps.
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
        """All tensors of the model that the file has, by their names in the model."""
        return {self.model_prefix + name: value for name, value in self.encoder.items()} | self.head

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Tensors beside which the encoder has others, and not these."""
        encoder_parts = {name.partition(".")[0] for name in (*self.encoder, *self.missing_encoder)}
        prefixed_names = (name for name in self.extra if name.startswith(self.prefix))
        return tuple(
            name for name in prefixed_names if name.removeprefix(self.prefix).partition(".")[0] in encoder_parts
        )


def match_tensors(tensors: Mapping[str, Tensor], view: ModelView, *, optional: Collection[str] = ()) -> TensorMatch:
    """Return what the tensors of a checkpoint are to a model.

    Names in a checkpoint may have the encoder's path in front or not, or that of a wrapper, and may be the ones that
    weight norm had in older versions of torch.

    Args:
        tensors: By their names in the file.
        view: A model of the class that is to be loaded, without weights (on the meta device).
        optional: Names in the encoder, and in the model, that may be missing.

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
    """Return what stands in front of the encoder's names: what most of them have.

    Args:
        names: Of the file.
        encoder: Names in the encoder.
        usual: What may stand there beside another encoder under another name.
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
    """Return the name that a tensor of weight norm has in present versions of torch."""
    for old_suffix, new_suffix in _RENAMED_SUFFIXES.items():
        if name.endswith(old_suffix):
            return name.removesuffix(old_suffix) + new_suffix
    return name


def _split_folded_weights(
    encoder_tensors: dict[str, Tensor], extra: dict[str, Tensor], encoder: Collection[str], prefix: str
) -> tuple[str, ...]:
    """Split weights that were saved with their weight norm folded into magnitude and direction, in place.

    The direction is the weight itself, and the magnitude its norm, so that their product is the weight.
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

    Nothing has no direction, and weight norm would divide zero by zero: a tap of zeros gets ones, at magnitude zero.
    Of half precision both are float32: a rounded norm would make another weight.
    """
    if weight.is_floating_point() and weight.itemsize < torch.float32.itemsize:
        weight = weight.float()
    norm = direction_norm(weight, weight.new_empty(1, 1, weight.shape[-1]))
    direction = torch.where((norm == 0).expand_as(weight), torch.ones_like(weight), weight)
    return norm.to(weight.dtype), direction


def describe_misfit(match: TensorMatch) -> str:
    """Return why a model cannot be loaded from a checkpoint, in words that go on from its name; empty where it can."""
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
    """Return how a head that is there differs from the config's, in words; empty where it does not."""
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
    """Return which tensors hold NaN or infinite values and how many of them, in words; empty where none does."""
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
    """Return values of eight bits as float32, since torch computes nothing with them."""
    return value.float() if value.itemsize == 1 else value


def format_names(names: Iterable[str]) -> str:
    """Return some names as text."""
    sorted_names = sorted(names)
    more_note = f" and {len(sorted_names) - _MAX_LISTED_NAMES} more" if len(sorted_names) > _MAX_LISTED_NAMES else ""
    return ", ".join(sorted_names[:_MAX_LISTED_NAMES]) + more_note


def _misshaped_names(match: TensorMatch, *, head: bool) -> list[str]:
    """Return tensors of another size than the config's, matrices first: in the head, or outside it."""
    names = [name for name in match.misshaped if (name in match.head) == head]
    return sorted(names, key=lambda name: len(match.misshaped[name][0]) < 2)


def _describe_dtypes(match: TensorMatch, *, head: bool) -> str:
    """Return which tensors are no floating-point numbers, in words: in the head, or outside it; empty where all are."""
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
