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
from secateur.objective.tasks.best_rq import BestRqTask, Labeller

#: Its name in a model's folder, which the library's classes pass by.
FILE = "best_rq.safetensors"

_LAYER, _LABELS = "layer.", "labels."  # what the names of tensors begin with


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What pre-training, or a run with the task, left.

    Attributes:
        path: Of the file.
        settings: What is guessed.
        layer: State of the layer of guesses.
        labels: State of the labeller: its projections, its codebooks and the statistics of the corpus.
    """

    path: Path
    settings: BestRqTask
    layer: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    def restore(self, layer: nn.Module, labeller: Labeller) -> None:
        """Put what was left into a layer and a labeller of the same settings.

        Raises:
            ModelError: They are of another encoder than the file.
        """
        for module, state in ((layer, self.layer), (labeller, self.labels)):
            wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            found = {name: tuple(value.shape) for name, value in state.items()}
            for name in sorted(wanted.keys() | found.keys()):
                if wanted.get(name) != found.get(name):
                    raise ModelError(
                        f"{str(self.path)!r} is not of the encoder beside it: the shape of {name} is "
                        f"{found.get(name, 'missing')}, allowed is {wanted.get(name, 'none')}; put the file of this "
                        "encoder there, or remove it, and a new layer begins."
                    )
            module.load_state_dict(dict(state))


def save_guesses(folder: Path, *, layer: nn.Module, labeller: Labeller) -> None:
    """Write them into a model's folder."""
    tensors = {f"{_LAYER}{name}": value for name, value in layer.state_dict().items()}
    tensors |= {f"{_LABELS}{name}": value for name, value in labeller.state_dict().items()}
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / FILE,
        metadata={"settings": json.dumps(asdict(labeller.task))},
    )


def read_guesses(path: Path) -> Guesses:
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
        task = configs.load(settings, BestRqTask)
    except (OSError, SafetensorError, ValueError) as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{str(path)!r} is missing, damaged or no layer of guesses ({first}): put it back; beside a pre-trained "
            "encoder it may also be left out, and a new layer begins."
        ) from None
    layer, labels = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in (_LAYER, _LABELS)
    )
    return Guesses(path=path, settings=task, layer=layer, labels=labels)
