"""Going on with BEST-RQ: an encoder guesses the labels of frames that are hidden from it, as in its pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Utterance
from secateur.data.hearing import Audio, Hearing
from secateur.objective.tasks import best_rq
from secateur.objective.tasks.best_rq import BestRqTask, Labeller
from secateur.objective.tasks.guesses import FILE, read_guesses, save_guesses
from secateur.objective.tasks.hiding import Hiding
from secateur.objective.tasks.task import Lesson, Posed, Scorer, Usable, long_enough
from secateur.structure import Structure

# What a draw is for, part of its key.
_MASK, _NOISE = 0, 1

_MEASURED, _LONGEST = 256, 16  # utterances, and seconds of each, that statistics for the labels come from


@dataclass(frozen=True, kw_only=True)
class BestRq:
    """The loss that an encoder is pre-trained by: what is under stretches of noise, as labels that nobody wrote."""

    kind: Literal["best_rq"] = "best_rq"
    settings: BestRqTask | None = None
    """what is guessed and how much is hidden; null: as the encoder was pre-trained, or the defaults where it was not"""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a task may want to know of an encoder besides its config.

    Attributes:
        hearing: How it hears.
        structure: Its structure.
        beside: From the name of a file to its path beside the encoder; None where there is none.
    """

    hearing: Hearing
    structure: Structure
    beside: Callable[[str], Path | None]


@dataclass(frozen=True)
class Hidden:
    """What is asked of a batch whose rows are of one length.

    Attributes:
        values: (B, samples) or (B, positions, width), with nothing hidden.
        mask: (B, T), True where hidden.
        balance: Hidden frames to one that is not, in the whole lesson.
    """

    values: Tensor
    mask: Tensor
    balance: float


class HidingLesson:
    """A lesson in what is hidden. What that is follows from its key and the place of an utterance in it alone."""

    def __init__(self, hiding: Hiding, task: BestRqTask, frames: Sequence[int], *, key: Sequence[int]) -> None:
        self.hiding, self.key = hiding, tuple(key)
        self.masks = [
            best_rq.draw_mask(task, batch=1, frames=count, rng=self._chance(_MASK, place))
            for place, count in enumerate(frames)
        ]
        self.count = sum(int(mask.sum()) for mask in self.masks)

    def pose(self, audio: AudioBatch, places: Sequence[int]) -> Posed:
        """The audio with noise in it, and what was there."""
        assert audio.mask is None, "rows are of one length"
        heard = [
            self.hiding.hide(row[None], self.masks[place], self._chance(_NOISE, place))
            for row, place in zip(audio.values, places, strict=True)
        ]
        mask = torch.cat([self.masks[place] for place in places])
        visible = sum(each.numel() for each in self.masks) - self.count
        return Posed(replace(audio, values=torch.cat(heard)), Hidden(audio.values, mask, self.count / max(1, visible)))

    def _chance(self, what: int, place: int) -> np.random.Generator:
        return np.random.default_rng([what, *self.key, place])


class GuessingTask:
    """Guesses the labels of hidden frames. The layer that does is the task's, so that a bare encoder stays one."""

    ending: str = ""
    headline: str = "masked_accuracy"
    better: Literal["lower", "higher"] = "higher"
    whole: bool = False

    def __init__(
        self, labeller: Labeller, hiding: Hiding, head: nn.Module, *, new_head: bool, notes: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            labeller: What labels are made by.
            hiding: Where frames lie in what the encoder hears.
            head: From its last hidden state, (…, D), to the logits of all codebooks, (…, codebooks · entries).
            new_head: Whether that starts from nothing.
            notes: Why it does.
        """
        self.labeller, self.hiding, self.head = labeller, hiding, head
        self.new_head, self.notes = new_head, notes

    @property
    def settings(self) -> BestRqTask:
        """What is guessed and how much is hidden."""
        return self.labeller.task

    def fields(self) -> dict[str, Any]:
        """Nothing: the model has no head."""
        return {}

    def begin(self, model: Any) -> None:
        """A new layer of guesses knows nothing."""

    def usable(self, corpus: Corpus, frames: Callable[[int], int]) -> Usable:
        """Audio that gives at least one frame.

        Raises:
            DataError: There is none.
        """
        return long_enough(corpus, frames)

    def lesson(self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int]) -> Lesson:
        """Frames to be hidden, by hidden frames."""
        return HidingLesson(self.hiding, self.settings, frames, key=key)

    def sums(self, output: Tensor, frames: Tensor, asked: Hidden, *, model: Any = None) -> Tensor:
        """Cross-entropies of the hidden frames in nats, averaged over codebooks; and of the others, by their weight.

        Divided by the hidden frames of the lesson it is the loss of pre-training.

        Args:
            output: (B, T, D), the encoder's last hidden state.
            frames: (B,); all are valid.
            asked: What is hidden.
            model: Has no part in it.
        """
        found = self.compare(self.guesses(output), asked)
        return found.hidden + self.settings.visible_weight * asked.balance * found.visible

    def compare(self, guesses: Tensor, asked: Hidden) -> best_rq.BestRqLoss:
        """Guesses (B, T, codebooks, entries) beside what is hidden."""
        device = guesses.device
        labels = self.labeller.to(device)(self.hiding.labelled(asked.values.to(device)))
        return best_rq.loss(guesses, labels, asked.mask.to(device))

    def guesses(self, state: Tensor) -> Tensor:
        """The encoder's last hidden state, (B, T, D), to logits (B, T, codebooks, entries)."""
        logits: Tensor = self.head(state)
        return torch.unflatten(logits, -1, (self.settings.codebooks, -1))

    def answers(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Guesses, (B, T, codebooks, entries)."""
        state: Tensor = model(**inputs).last_hidden_state
        return self.guesses(state)

    def scorer(self) -> Scorer:
        """Accuracy and loss under the mask."""
        return GuessScorer(self)

    def save(self, folder: Path) -> None:
        """Write the layer of guesses and what it was trained to guess."""
        save_guesses(folder, layer=self.head, labeller=self.labeller)

    def restore(self, folder: Path) -> None:
        """Take both from there.

        Raises:
            ModelError: They are damaged, or not there.
        """
        read_guesses(folder / FILE).restore(self.head, self.labeller)


class GuessScorer:
    """Share of the labels under the mask that are guessed right, and their cross-entropy in nats."""

    def __init__(self, task: GuessingTask) -> None:
        self.task = task
        self.frames, self.hits, self.loss = 0, 0.0, 0.0

    def add(self, answers: Tensor, frames: Tensor, asked: Hidden) -> None:
        """Take in a batch: guesses (B, T, codebooks, entries)."""
        found = self.task.compare(answers, asked)
        self.frames += int(asked.mask.sum())
        self.hits += float(found.hits)
        self.loss += float(found.hidden)

    def figures(self) -> dict[str, float]:
        """``masked_accuracy`` and ``masked_loss``."""
        frames = max(1, self.frames)
        return {"masked_accuracy": self.hits / frames, "masked_loss": self.loss / frames}


def build_guessing(
    config: BestRq, *, source: str | Path, width: int, corpus: Corpus, around: Surroundings
) -> GuessingTask:
    """The task for an encoder: by the layer that lies beside it, else by a new one.

    Args:
        config: What is asked for.
        source: Folder or hub id of the encoder.
        width: Of its last hidden state.
        corpus: Where a new layer's labels get their statistics from.
        around: How it hears, and what lies beside it.

    Raises:
        ConfigError: Its front end is not one that labels are made for, or the settings are not for what it hears.
        ModelError: The layer beside it is damaged, or another encoder's.
    """
    hiding, path = Hiding(around.structure), around.beside(FILE)
    left = None if path is None else read_guesses(path)
    settings = config.settings or (left.settings if left is not None else _defaults(hiding))
    labeller = hiding.labeller(settings, sample_rate=corpus.sample_rate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = nn.Linear(width, settings.codebooks * settings.entries)
    why = f"there is none beside {str(source)!r}"
    if left is not None:
        changed = _changed(settings, left.settings)
        if not changed:
            left.restore(head, labeller)
            return GuessingTask(labeller, hiding, head, new_head=False)
        why = f"that of {str(source)!r} was trained with other settings ({', '.join(changed)})"
    measured = _some(corpus, around.structure) if settings.plain_codebooks or settings.crop_codebooks else []
    if measured:
        labeller.measure(hiding.labelled(around.hearing([_audio(corpus, index)])[0]) for index in measured)
    return GuessingTask(labeller, hiding, head, new_head=True, notes=(f"the layer of guesses begins anew: {why}",))


def _defaults(hiding: Hiding) -> BestRqTask:
    """Settings where nothing tells of any: codebooks of whole crops are for encoders that hear samples."""
    return BestRqTask() if hiding.width is None else BestRqTask(crop_codebooks=0)


def _changed(settings: BestRqTask, left: BestRqTask) -> list[str]:
    """What of the labels differs from those that a layer was trained with; how much is hidden is no part of it."""
    free = ("kind", "mask_share", "mask_span", "visible_weight")
    names = [field.name for field in fields(BestRqTask) if field.name not in free]
    return [
        f"{name}: {getattr(left, name)}, now {getattr(settings, name)}"
        for name in names
        if getattr(settings, name) != getattr(left, name)
    ]


def _some(corpus: Corpus, structure: Structure) -> list[int]:
    """Utterances from all over a corpus that are long enough for a frame."""
    able = [i for i, utterance in enumerate(corpus.utterances) if structure.lengths(utterance.samples)[-1] > 0]
    return able[:: -(-len(able) // _MEASURED) or 1]


def _audio(corpus: Corpus, index: int) -> Audio:
    return corpus.audio(index)[: _LONGEST * corpus.sample_rate]
