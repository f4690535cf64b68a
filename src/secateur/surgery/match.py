"""The tensors of a checkpoint by what they are: of the encoder, of its head, or something beside both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.modules.families import encoder_path
from secateur.modules.positions import direction_norm

_NORMED = ".parametrizations.weight.original"  # followed by 0 for the magnitude, 1 for the direction
_OLD_NAMES = {".weight_g": f"{_NORMED}0", ".weight_v": f"{_NORMED}1"}
_SHOWN = 3

#: Config fields that say how large a part of a head is, by the first word of its name.
_FIELDS = {
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
_COUNTS = {
    "decoder": "num_decoder_layers",
    "tdnn": "tdnn_dim",
    "layer_weights": "use_weighted_layer_sum",
}
#: Endings of the classes with weights of the layers that they sum up, where their config asks for it.
_SUMMING = ("ForSequenceClassification", "ForAudioFrameClassification", "ForXVector")


@dataclass(frozen=True, kw_only=True)
class Match:
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
    inside: str
    missing: tuple[str, ...]
    headless: tuple[str, ...]
    surplus: tuple[str, ...]
    wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    mistyped: Mapping[str, torch.dtype]
    unfolded: tuple[str, ...]

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """All tensors of the model that the file has, by their names in the model."""
        return {self.inside + name: value for name, value in self.encoder.items()} | self.head

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Tensors beside which the encoder has others, and not these."""
        first = {name.partition(".")[0] for name in (*self.encoder, *self.missing)}
        inside = (name for name in self.extra if name.startswith(self.prefix))
        return tuple(name for name in inside if name.removeprefix(self.prefix).partition(".")[0] in first)


def match(tensors: Mapping[str, Tensor], model: Any, *, optional: Collection[str] = ()) -> Match:
    """Return what the tensors of a checkpoint are to a model.

    Names in a checkpoint may have the encoder's path in front or not, or that of a wrapper, and may be the ones that
    weight norm had in older versions of torch.

    Args:
        tensors: By their names in the file.
        model: Of the class that is to be loaded, without weights (on the meta device).
        optional: Names in the encoder, and in the model, that may be missing.

    Raises:
        ModelError: The file holds several encoders.
    """
    inside = f"{path}." if (path := encoder_path(model)) else ""
    state = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    encoder = {name.removeprefix(inside) for name in expected if name.startswith(inside)}
    prefix = _prefix(tensors, encoder, usual=("", inside, f"{model.base_model_prefix}."))
    outer = prefix.removesuffix(f"{model.base_model_prefix}.")
    own: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for name, value in tensors.items():
        within, beside = _modern(name.removeprefix(prefix)), name.removeprefix(outer)
        if name.startswith(prefix) and within in encoder:
            own[within] = value
        elif inside and beside in expected and not beside.startswith(inside):
            head[beside] = value
        else:
            extra[name] = value
    unfolded = _unfold(own, extra, encoder, prefix)
    loaded = {inside + name: value for name, value in own.items()} | head
    outside = [name for name in expected if inside and not name.startswith(inside)]
    parts = {name.partition(".")[0] for name in outside}
    parts |= {"layer_weights"} if type(model).__name__.endswith(_SUMMING) else set()
    return Match(
        encoder=own,
        head=head,
        extra=extra,
        prefix=prefix,
        inside=inside,
        missing=tuple(name for name in sorted(encoder - own.keys()) if name not in optional),
        headless=tuple(name for name in outside if name not in head and name not in optional),
        surplus=tuple(name for name in extra if name.removeprefix(outer).partition(".")[0] in parts),
        wrong={
            name: (tuple(loaded[name].shape), shape)
            for name, shape in expected.items()
            if name in loaded and tuple(loaded[name].shape) != shape
        },
        mistyped={
            name: value.dtype
            for name, value in loaded.items()
            if state[name].is_floating_point() and not value.is_floating_point()
        },
        unfolded=unfolded,
    )


def _prefix(names: Iterable[str], encoder: Collection[str], *, usual: Collection[str]) -> str:
    """Return what stands in front of the encoder's names: what most of them have.

    Args:
        names: Of the file.
        encoder: Names in the encoder.
        usual: What may stand there beside another encoder under another name.
    """
    found: Counter[str] = Counter()
    for name in map(_modern, names):
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in encoder:
                found[".".join(parts[:start]) + ("." if start else "")] += 1
    if not found:
        return ""
    most = max(found.values())
    best = [prefix for prefix, count in found.items() if count == most]
    known = [prefix for prefix in best if prefix in usual]
    if len(best) > 1 and not known:
        raise ModelError(f"The file holds several encoders, under {', '.join(map(repr, best))}: expected one.")
    return (known or best)[0]


def _modern(name: str) -> str:
    """Return the name that a tensor of weight norm has in present versions of torch."""
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _unfold(own: dict[str, Tensor], extra: dict[str, Tensor], encoder: Collection[str], prefix: str) -> tuple[str, ...]:
    """Split weights that were saved with their weight norm folded into magnitude and direction, in place.

    The direction is the weight itself, and the magnitude its norm, so that their product is the weight.
    """
    folded = []
    for name in sorted(encoder):
        path = name.removesuffix(f"{_NORMED}1")
        weight = extra.get(f"{prefix}{path}.weight")
        if path == name or weight is None or weight.dim() != 3 or name in own or f"{path}{_NORMED}0" in own:
            continue
        own[f"{path}{_NORMED}0"], own[name] = _split(weight)
        folded.append(f"{path}.weight")
        del extra[f"{prefix}{path}.weight"]
    return tuple(folded)


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return magnitude (1, 1, taps) and direction (out, in, taps) of the weight of a positional convolution.

    Nothing has no direction, and weight norm would divide zero by zero: a tap of zeros gets ones, at magnitude zero.
    Of half precision both are float32: a rounded norm would make another weight.
    """
    if weight.is_floating_point() and weight.itemsize < torch.float32.itemsize:
        weight = weight.float()
    norm = direction_norm(weight, weight.new_empty(1, 1, weight.shape[-1]))
    direction = torch.where((norm == 0).expand_as(weight), torch.ones_like(weight), weight)
    return norm.to(weight.dtype), direction


def misfit(match: Match) -> str:
    """Return why a model cannot be loaded from a checkpoint, in words that go on from its name; empty where it can."""
    wrong = _wrong(match, head=False)
    problems = [
        f"{word} {shown(names)}"
        for word, names in (("missing", match.missing), ("unexpected", match.unexpected))
        if names
    ]
    if typed := _types(match, head=False):
        problems.append(typed)
    elif wrong:
        problems.append(f"{_sizes(wrong[0], match)}{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}")
    return "; ".join(problems)


def head_misfit(match: Match) -> str:
    """Return how a head that is there differs from the config's, in words; empty where it does not."""
    wrong = _wrong(match, head=True)
    if typed := _types(match, head=True):
        return typed
    if wrong:
        field = _FIELDS.get(wrong[0].partition(".")[0])
        problem = _sizes(wrong[0], match)
    elif match.surplus:
        field = next((field for part, field in _COUNTS.items() if part in match.surplus[0].split(".")), None)
        problem = f"the file has {shown(match.surplus)}, for which there is no place by the config"
    else:
        return ""
    return problem + (f"; see {field} in config.json" if field else "")


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return which tensors hold NaN or infinite values and how many of them, in words; empty where none does."""
    counts = {
        name: int((~torch.isfinite(_wide(value))).sum())
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(_wide(value)).all())
    }
    if not counts:
        return ""
    name = next(iter(counts))
    more = f", and {len(counts) - 1} more tensors hold some" if len(counts) > 1 else ""
    return f"{counts[name]:,} of the {tensors[name].numel():,} values of {name} are NaN or infinite{more}"


def _wide(value: Tensor) -> Tensor:
    """Return values of eight bits as float32, since torch computes nothing with them."""
    return value.float() if value.itemsize == 1 else value


def shown(names: Iterable[str]) -> str:
    """Return some names as text."""
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _wrong(match: Match, *, head: bool) -> list[str]:
    """Return tensors of another size than the config's, matrices first: in the head, or outside it."""
    names = [name for name in match.wrong if (name in match.head) == head]
    return sorted(names, key=lambda name: len(match.wrong[name][0]) < 2)


def _types(match: Match, *, head: bool) -> str:
    """Return which tensors are no floating-point numbers, in words: in the head, or outside it; empty where all are."""
    names = [name for name in match.mistyped if (name in match.head) == head]
    if not names:
        return ""
    more = f", and {len(names) - 1} more such" if len(names) > 1 else ""
    return f"{names[0]} is {str(match.mistyped[names[0]]).removeprefix('torch.')} in the file, expected float{more}"


def _sizes(name: str, match: Match) -> str:
    in_file, by_config = (" x ".join(map(str, shape)) or "a single value" for shape in match.wrong[name])
    return f"{name} is {in_file} in the file and {by_config} by the config"
