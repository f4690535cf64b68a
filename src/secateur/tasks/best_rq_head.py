"""The layer that BEST-RQ guesses labels with, and what they are labelled by, as a file beside the encoder."""

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

#: Its name in a model's folder, which the library's classes pass by.
HEAD_FILE = "best_rq.safetensors"

_HEAD_PREFIX, _LABELER_PREFIX = "layer.", "labels."  # what the names of tensors begin with


@dataclass(frozen=True, kw_only=True)
class SavedBestRqHead:
    """What pre-training, or a run with the task, left.

    Attributes:
        path: Of the file.
        settings: What is guessed.
        layer: State of the layer of guesses.
        labels: State of the labeller: its projections, its codebooks and the statistics of the corpus.
    """

    path: Path
    settings: BestRqSettings
    head_state: Mapping[str, Tensor]
    labeler_state: Mapping[str, Tensor]

    def restore(self, head: nn.Module, labeler: RandomProjectionLabeler) -> None:
        """Put what was left into a layer and a labeller of the same settings.

        Raises:
            ModelError: They are of another encoder than the file.
        """
        for module, state in ((head, self.head_state), (labeler, self.labeler_state)):
            expected_shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            saved_shapes = {name: tuple(value.shape) for name, value in state.items()}
            for name in sorted(expected_shapes.keys() | saved_shapes.keys()):
                if expected_shapes.get(name) != saved_shapes.get(name):
                    raise ModelError(
                        f"{str(self.path)!r} is not of the encoder beside it: the shape of {name} is "
                        f"{saved_shapes.get(name, 'missing')}, allowed is {expected_shapes.get(name, 'none')}; put the file of this "
                        "encoder there, or remove it, and a new layer begins."
                    )
            module.load_state_dict(dict(state))


def save_best_rq_head(folder: Path, *, head: nn.Module, labeler: RandomProjectionLabeler) -> None:
    """Write them into a model's folder."""
    tensors = {f"{_HEAD_PREFIX}{name}": value for name, value in head.state_dict().items()}
    tensors |= {f"{_LABELER_PREFIX}{name}": value for name, value in labeler.state_dict().items()}
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / HEAD_FILE,
        metadata={"settings": json.dumps(asdict(labeler.settings))},
    )


def read_best_rq_head(path: Path) -> SavedBestRqHead:
    """What is in a file.

    Raises:
        ModelError: It is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "settings" not in metadata:
                raise ValueError("it holds no settings")
            settings = json.loads(metadata["settings"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        task = configs.load(settings, BestRqSettings)
    except (OSError, SafetensorError, ValueError) as error:
        error_text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{str(path)!r} is missing, damaged or no layer of guesses ({error_text}): put it back; beside a pre-trained "
            "encoder it may also be left out, and a new layer begins."
        ) from None
    layer, labels = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in (_HEAD_PREFIX, _LABELER_PREFIX)
    )
    return SavedBestRqHead(path=path, settings=task, head_state=layer, labeler_state=labels)
