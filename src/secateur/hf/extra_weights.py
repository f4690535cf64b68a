"""Extra weights in a model's folder, beyond encoder and head, and the transfer to a cut model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import ModelError
from secateur.hf.hub_files import find_file
from secateur.hf.model_view import ConfigView, ModelView
from secateur.hf.weight_files import check_tensors, read_tensors

logger = logging.getLogger(__name__)

#: Names of adapter files, one per language, as in the folders of MMS models.
_ADAPTERS = ("adapter.*.safetensors", "adapter.*.bin")

#: Module of the pre-training head, which transformers applies to the output of the last convolution.
_QUANTIZER = "quantizer"


@dataclass(frozen=True, kw_only=True)
class ExtraWeights:
    """Weights in a checkpoint that belong neither to the encoder nor to the head of the model's class.

    An example is a projection of the encoder's output.

    Attributes:
        tensors: The weights, by name in the file.
        prefix: Prefix of the names of the encoder's parameters in the file.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: str = ""

    def select_fitting(self, dense_view: ConfigView, cut_view: ModelView) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Return the weights that fit a cut model, and a sentence for each group of weights that is left out.

        Weights are grouped by the first component of their names. Weights that take the encoder's output fit, since its
        width is never cut. Weights that take channels of the front end or weigh all hidden states do not fit where
        channels or layers were cut; neither does a second copy of the encoder, such as a moving average of its weights.

        Args:
            dense_view: The model that these weights came with, or its config.
            cut_view: The cut model.
        """
        prefix = cut_view.prefix
        old_encoder = dense_view.encoder_config
        new_encoder = cut_view.encoder_config
        heads = {
            name.partition(".")[0] for name in cut_view.model.state_dict() if prefix and not name.startswith(prefix)
        }
        encoder = cut_view.encoder.state_dict().keys()
        kept_tensors: dict[str, Tensor] = {}
        reasons: list[str] = []
        output_widths = _output_widths(self.tensors)
        for group in dict.fromkeys(name.partition(".")[0] for name in self.tensors):
            group_tensors = {name: value for name, value in self.tensors.items() if name.partition(".")[0] == group}
            input_widths = _output_widths(group_tensors) if group == _QUANTIZER else output_widths
            reason = (
                "the model has a new head of that name"
                if group in heads
                else _misfit_reason(group_tensors, old_encoder, new_encoder, available_widths=input_widths)
            )
            reason = "it is another encoder, of the old shape" if _is_encoder(group_tensors, encoder) else reason
            if reason:
                reasons.append(f"{group} ({len(group_tensors)} weights beside the encoder) is left out: {reason}")
            else:
                kept_tensors |= group_tensors
        return kept_tensors, tuple(reasons)

    def state_dict(self, dense_view: ConfigView, cut_view: ModelView) -> dict[str, Tensor]:
        """Return all weights of a cut model's file: the state dict of the model and the extra weights that fit.

        Where extra weights are kept beside a bare encoder, the encoder's parameters keep the prefix of the original
        file, for user-defined classes that hold the encoder under that name.
        """
        kept_tensors, _ = self.select_fitting(dense_view, cut_view)
        model_state: dict[str, Tensor] = cut_view.model.state_dict()
        if kept_tensors and not cut_view.has_head and self.prefix == f"{cut_view.model.base_model_prefix}.":
            model_state = {self.prefix + name: value for name, value in model_state.items()}
        # Cloned, since safetensors writes no tensors that share memory.
        return model_state | {name: value.clone() for name, value in kept_tensors.items()}


def _is_encoder(group: Collection[str], encoder: Collection[str]) -> bool:
    """Return whether a group of names contains, behind a prefix, most names of an encoder."""
    split_names = [name.split(".") for name in group]
    name_suffixes = {".".join(words[start:]) for words in split_names for start in range(1, len(words))}
    return 2 * len(name_suffixes.intersection(encoder)) > len(encoder)


def _misfit_reason(
    group: Mapping[str, Tensor], old_config: Any, new_config: Any, *, available_widths: Collection[int]
) -> str:
    """Return a phrase on the cut part of the encoder that a group of weights needs, or an empty string.

    Args:
        group: The weights.
        old_config: Config of the original encoder.
        new_config: Config of the cut encoder.
        available_widths: Output widths of extra weights, which other extra weights may take as their input.
    """
    layers, remaining_layers = old_config.num_hidden_layers, new_config.num_hidden_layers
    if remaining_layers < layers and (name := _find_layer_weights(group, layers, available_widths=available_widths)):
        count = group[name].numel()
        return f"{name} has {count} values, as many as there were {'layers' if count == layers else 'hidden states'}"
    channels = list(getattr(old_config, "conv_dim", ())) or [0]
    if channels[-1] != (list(getattr(new_config, "conv_dim", ())) or [0])[-1]:
        input_widths = (
            {value.shape[1] for value in group.values() if value.dim() > 1}
            - set(available_widths)
            - {old_config.hidden_size}
        )
        if channels[-1] in input_widths:
            return (
                f"it takes {channels[-1]} channels of the front end, of which {list(new_config.conv_dim)[-1]} are left"
            )
    return ""


def _find_layer_weights(group: Mapping[str, Tensor], layers: int, *, available_widths: Collection[int]) -> str:
    """Return the name of a tensor with a weight per layer or hidden state, or an empty string.

    Such a tensor has no other dimension above 1, and no second tensor of its size in the same module, unlike norms.

    Args:
        group: Weights by name.
        layers: Number of layers of the encoder.
        available_widths: Output widths of extra weights, which a map to a single value may take.
    """
    output_widths = _output_widths(group)
    size_counts = Counter((name.rpartition(".")[0], value.numel()) for name, value in group.items())
    for name, value in group.items():
        size = value.numel()
        is_plain = (
            size in (layers, layers + 1) and size in value.shape and size_counts[name.rpartition(".")[0], size] == 1
        )
        is_map = value.dim() == 2 and value.shape[1] == size
        if is_plain and not name.endswith("bias") and size not in (available_widths if is_map else output_widths):
            return name
    return ""


def _output_widths(tensors: Mapping[str, Tensor]) -> set[int]:
    """Return the output widths of matrices, convolutions and recurrent layers, uni- or bidirectional."""
    recurrent_widths = {value.shape[1] for name, value in tensors.items() if "weight_hh" in name and value.dim() > 1}
    matrix_widths = {len(value) for value in tensors.values() if value.dim() > 1 and value.numel() > len(value)}
    return matrix_widths | recurrent_widths | {2 * width for width in recurrent_widths}


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """Adapters of further languages in a model's folder, a file per language.

    Attributes:
        files: Readable files.
        notes: A sentence for each unreadable file.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def find_adapters(source: str | Path, view: ConfigView) -> AdapterFiles:
    """Return the adapters of a folder, or the cached adapters of a hub id.

    Args:
        source: The folder or hub id.
        view: The model, or its config.
    """
    encoder_config = view.encoder_config
    config_file = find_file(source, "config.json") if getattr(encoder_config, "adapter_attn_dim", None) else None
    paths = [path for pattern in _ADAPTERS for path in sorted(config_file.parent.glob(pattern))] if config_file else []
    files: list[Path] = []
    notes: list[str] = []
    for path in filter(Path.is_file, paths):
        try:
            check_tensors(path)
        except ModelError as error:
            notes.append(f"{error} It is left out")
        else:
            files.append(path)
    return AdapterFiles(files=tuple(files), notes=tuple(notes))


def copy_adapters(source: str | Path, view: ModelView, folder: Path) -> None:
    """Copy readable adapters of further languages into the folder of a cut model.

    Adapter weights of removed layers are left out. Pickled files are written as safetensors.

    Args:
        source: The folder or hub id that the model came from.
        view: The cut model.
        folder: Destination.
    """
    files = find_adapters(source, view).files
    encoder_state = view.encoder.state_dict()
    dropped_count = 0
    for path in files:
        target = folder / f"{path.stem}.safetensors"
        if target.exists():
            continue
        tensors = read_tensors(path)
        kept_tensors = {name: value for name, value in tensors.items() if _adapter_fits(name, value, encoder_state)}
        dropped_count += len(tensors) - len(kept_tensors)
        save_file(
            {name: value.clone().contiguous() for name, value in kept_tensors.items()},
            target,
            metadata={"format": "pt"},
        )
    if files:
        dropped_note = f"; {dropped_count} weights of layers that were removed are left out" if dropped_count else ""
        logger.warning("%d adapters of languages go with the model%s", len(files), dropped_note)


def _adapter_fits(name: str, value: Tensor, encoder_state: Mapping[str, Tensor]) -> bool:
    """Return whether a cut encoder has the parameter for an adapter weight; weights outside the encoder always fit."""
    _, layers, layer_suffix = name.partition("encoder.layers.")
    return not layers or (
        (cut_value := encoder_state.get(layers + layer_suffix)) is not None and cut_value.shape == value.shape
    )
