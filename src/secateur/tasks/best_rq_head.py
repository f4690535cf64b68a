"""File beside an encoder with the BEST-RQ prediction head and the labeler of the head's targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur import config as configs
from secateur.errors import ModelError
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler

#: Name of the file in a model folder; transformers ignores it.
HEAD_FILE = "best_rq.safetensors"

# Prefixes of the tensor names in the file.
_HEAD_PREFIX = "layer."
_LABELER_PREFIX = "labels."


@dataclass(frozen=True, kw_only=True)
class SavedBestRqHead:
    """Head and labeler from the file of a pre-training or of a run with the task.

    Attributes:
        path: Path of the file.
        settings: Settings of the labels and the mask.
        head_state: State of the prediction head.
        labeler_state: State of the labeler: projections, codebooks and corpus statistics.
    """

    path: Path
    settings: BestRqSettings
    head_state: Mapping[str, Tensor]
    labeler_state: Mapping[str, Tensor]

    def restore(self, head: nn.Module, labeler: RandomProjectionLabeler) -> None:
        """Load the saved state into a head and a labeler with the same settings.

        Raises:
            ModelError: The shapes differ: the file belongs to another encoder.
        """
        for module, state in ((head, self.head_state), (labeler, self.labeler_state)):
            expected_shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            saved_shapes = {name: tuple(value.shape) for name, value in state.items()}
            for name in sorted(expected_shapes.keys() | saved_shapes.keys()):
                if expected_shapes.get(name) != saved_shapes.get(name):
                    raise ModelError(
                        f"{str(self.path)!r} belongs to another encoder than the one beside it: {name} has the shape "
                        f"{saved_shapes.get(name, 'missing')}, expected {expected_shapes.get(name, 'none')}. Put the "
                        "file of this encoder there, or remove it to start with a new prediction head."
                    )
            module.load_state_dict(dict(state))


def save_best_rq_head(folder: Path, *, head: nn.Module, labeler: RandomProjectionLabeler) -> None:
    """Write a head and the labeler of the head's targets into a model folder."""
    tensors = {f"{_HEAD_PREFIX}{name}": value for name, value in head.state_dict().items()}
    tensors |= {f"{_LABELER_PREFIX}{name}": value for name, value in labeler.state_dict().items()}
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / HEAD_FILE,
        metadata={"settings": json.dumps(asdict(labeler.settings))},
    )


def read_best_rq_head(path: Path) -> SavedBestRqHead:
    """Return the contents of a file that `save_best_rq_head` wrote.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "settings" not in metadata:
                raise ValueError("no settings in its metadata")
            settings = json.loads(metadata["settings"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        task_settings = configs.load(settings, BestRqSettings)
    except (OSError, SafetensorError, ValueError) as error:
        error_text = " ".join(str(error).split())[:300]  # one line
        raise ModelError(
            f"{str(path)!r} is missing, damaged or holds no BEST-RQ head ({error_text}). Restore the file; beside a "
            "pre-trained encoder it may also be removed to start with a new head."
        ) from None
    return SavedBestRqHead(
        path=path,
        settings=task_settings,
        head_state=_with_prefix(tensors, _HEAD_PREFIX),
        labeler_state=_with_prefix(tensors, _LABELER_PREFIX),
    )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors with a prefix in the name, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
