"""Going on with BEST-RQ: an encoder guesses the labels of frames that are hidden from it, as in its pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import Audio
from secateur.hf.model_view import ConfigView
from secateur.records.score import ScoreInfo
from secateur.structure import Structure
from secateur.tasks import best_rq
from secateur.tasks.base import EncoderInfo, FilteredCorpus, Metric, StepTargets, TaskBatch, filter_short_audio
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler
from secateur.tasks.best_rq_head import HEAD_FILE, read_best_rq_head, save_best_rq_head
from secateur.tasks.noise_mask import NoiseMask

# What a draw is for, part of its key.
_MASK, _NOISE = 0, 1

_MAX_SAMPLE_UTTERANCES, _MAX_SAMPLE_SECONDS = (
    256,
    16,
)  # utterances, and seconds of each, that statistics for the labels come from


@dataclass(frozen=True, kw_only=True)
class BestRq:
    """The loss that an encoder is pre-trained by: what is under stretches of noise, as labels that nobody wrote."""

    kind: Literal["best_rq"] = "best_rq"
    head_class: ClassVar[str] = ""
    settings: BestRqSettings | None = None
    """what is guessed and how much is hidden; null: as the encoder was pre-trained, or the defaults where it was not"""

    def build(
        self,
        *,
        source: str | Path,
        model_config: PreTrainedConfig,
        corpus: Corpus,
        encoder_info: EncoderInfo | None = None,
    ) -> BestRqTask:
        """Return the task for a model; see `build_task`."""
        assert encoder_info is not None
        width = ConfigView.of_config(model_config).encoder_config.hidden_size
        return build_best_rq(self, source=source, width=width, corpus=corpus, encoder_info=encoder_info)


@dataclass(frozen=True)
class MaskedTargets:
    """What is asked of a batch whose rows are of one length.

    Attributes:
        values: (B, samples) or (B, positions, width), with nothing hidden.
        mask: (B, T), True where hidden.
        balance: Hidden frames to one that is not, in the whole lesson.
    """

    values: Tensor
    mask: Tensor
    balance: float


class MaskedStepTargets:
    """A lesson in what is hidden. What that is follows from its key and the place of an utterance in it alone."""

    def __init__(
        self, noise_mask: NoiseMask, settings: BestRqSettings, frames: Sequence[int], *, key: Sequence[int]
    ) -> None:
        self.noise_mask, self.key = noise_mask, tuple(key)
        self.masks = [
            best_rq.draw_mask(settings, batch=1, frames=count, rng=self._rng(_MASK, position))
            for position, count in enumerate(frames)
        ]
        self.count = sum(int(mask.sum()) for mask in self.masks)

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """The audio with noise in it, and what was there."""
        assert audio.mask is None, "rows are of one length"
        noisy_rows = [
            self.noise_mask.add_noise(row[None], self.masks[position], self._rng(_NOISE, position))
            for row, position in zip(audio.values, positions, strict=True)
        ]
        mask = torch.cat([self.masks[position] for position in positions])
        visible = sum(row_mask.numel() for row_mask in self.masks) - self.count
        return TaskBatch(
            replace(audio, values=torch.cat(noisy_rows)),
            MaskedTargets(audio.values, mask, self.count / max(1, visible)),
        )

    def _rng(self, purpose: int, position: int) -> np.random.Generator:
        return np.random.default_rng([purpose, *self.key, position])


class BestRqTask:
    """Guesses the labels of hidden frames. The layer that does is the task's, so that a bare encoder stays one."""

    head_class: str = BestRq.head_class
    title: str = "Self-supervision (BEST-RQ)"
    primary_metric: str = "masked_accuracy"
    scores: Mapping[str, ScoreInfo] = MappingProxyType(
        {
            "masked_accuracy": ScoreInfo(title="Accuracy under the mask", direction="higher"),
            "masked_loss": ScoreInfo(title="Loss under the mask", direction="lower", is_share=False),
        }
    )
    needs_full_utterance: bool = False

    def __init__(
        self,
        labeler: RandomProjectionLabeler,
        noise_mask: NoiseMask,
        head: nn.Module,
        *,
        new_head: bool,
        notes: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            labeller: What labels are made by.
            hiding: Where frames lie in what the encoder hears.
            head: From its last hidden state, (…, D), to the logits of all codebooks, (…, codebooks · entries).
            new_head: Whether that starts from nothing.
            notes: Why it does.
        """
        self.labeler, self.noise_mask, self.head = labeler, noise_mask, head
        self.new_head, self.notes = new_head, notes

    @property
    def settings(self) -> BestRqSettings:
        """What is guessed and how much is hidden."""
        return self.labeler.settings

    def fields(self) -> dict[str, Any]:
        """Nothing: the model has no head."""
        return {}

    def init_head(self, model: Any) -> None:
        """A new layer of guesses knows nothing."""

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Audio that gives at least one frame.

        Raises:
            DataError: There is none.
        """
        return filter_short_audio(corpus, frames)

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int]
    ) -> StepTargets:
        """Frames to be hidden, by hidden frames."""
        return MaskedStepTargets(self.noise_mask, self.settings, frames, key=key)

    def loss(self, output: Tensor, frames: Tensor, targets: MaskedTargets, *, model: Any = None) -> Tensor:
        """Cross-entropies of the hidden frames in nats, averaged over codebooks; and of the others, by their weight.

        Divided by the hidden frames of the lesson it is the loss of pre-training.

        Args:
            output: (B, T, D), the encoder's last hidden state.
            frames: (B,); all are valid.
            asked: What is hidden.
            model: Has no part in it.
        """
        loss_sums = self.loss_sums(self.code_logits(output), targets)
        return loss_sums.masked + self.settings.visible_weight * targets.balance * loss_sums.visible

    def loss_sums(self, logits: Tensor, targets: MaskedTargets) -> best_rq.BestRqLossSums:
        """Guesses (B, T, codebooks, entries) beside what is hidden."""
        device = logits.device
        labels = self.labeler.to(device)(self.noise_mask.label_inputs(targets.values.to(device)))
        return best_rq.loss(logits, labels, targets.mask.to(device))

    def code_logits(self, state: Tensor) -> Tensor:
        """The encoder's last hidden state, (B, T, D), to logits (B, T, codebooks, entries)."""
        logits: Tensor = self.head(state)
        return torch.unflatten(logits, -1, (self.settings.codebooks, -1))

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Guesses, (B, T, codebooks, entries)."""
        state: Tensor = model(**inputs).last_hidden_state
        return self.code_logits(state)

    def metric(self) -> Metric:
        """Accuracy and loss under the mask."""
        return MaskedAccuracy(self)

    def save(self, folder: Path) -> None:
        """Write the layer of guesses and what it was trained to guess."""
        save_best_rq_head(folder, head=self.head, labeler=self.labeler)

    def restore(self, folder: Path) -> None:
        """Take both from there.

        Raises:
            ModelError: They are damaged, or not there.
        """
        read_best_rq_head(folder / HEAD_FILE).restore(self.head, self.labeler)


class MaskedAccuracy:
    """Share of the labels under the mask that are guessed right, and their cross-entropy in nats."""

    def __init__(self, task: BestRqTask) -> None:
        self.task = task
        self.frames, self.hits, self.loss = 0, 0.0, 0.0

    def update(self, predictions: Tensor, frames: Tensor, targets: MaskedTargets) -> None:
        """Take in a batch: guesses (B, T, codebooks, entries)."""
        loss_sums = self.task.loss_sums(predictions, targets)
        self.frames += int(targets.mask.sum())
        self.hits += float(loss_sums.correct)
        self.loss += float(loss_sums.masked)

    def compute(self) -> dict[str, float]:
        """``masked_accuracy`` and ``masked_loss``."""
        frames = max(1, self.frames)
        return {"masked_accuracy": self.hits / frames, "masked_loss": self.loss / frames}


def build_best_rq(
    config: BestRq, *, source: str | Path, width: int, corpus: Corpus, encoder_info: EncoderInfo
) -> BestRqTask:
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
    noise_mask, path = NoiseMask(encoder_info.structure), encoder_info.find_file(HEAD_FILE)
    saved_head = None if path is None else read_best_rq_head(path)
    settings = config.settings or (saved_head.settings if saved_head is not None else _default_settings(noise_mask))
    labeler = noise_mask.make_labeler(settings, sample_rate=corpus.sample_rate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = nn.Linear(width, settings.codebooks * settings.entries)
    reason = f"there is none beside {str(source)!r}"
    if saved_head is not None:
        changed_settings = _changed_settings(settings, saved_head.settings)
        if not changed_settings:
            saved_head.restore(head, labeler)
            return BestRqTask(labeler, noise_mask, head, new_head=False)
        reason = f"that of {str(source)!r} was trained with other settings ({', '.join(changed_settings)})"
    sample_indices = (
        _sample_indices(corpus, encoder_info.structure) if settings.plain_codebooks or settings.crop_codebooks else []
    )
    if sample_indices:
        labeler.fit_statistics(
            noise_mask.label_inputs(encoder_info.input_features([_load_audio(corpus, index)])[0])
            for index in sample_indices
        )
    return BestRqTask(labeler, noise_mask, head, new_head=True, notes=(f"the layer of guesses begins anew: {reason}",))


def _default_settings(noise_mask: NoiseMask) -> BestRqSettings:
    """Settings where nothing tells of any: codebooks of whole crops are for encoders that hear samples."""
    return BestRqSettings() if noise_mask.width is None else BestRqSettings(crop_codebooks=0)


def _changed_settings(settings: BestRqSettings, saved_settings: BestRqSettings) -> list[str]:
    """What of the labels differs from those that a layer was trained with; how much is hidden is no part of it."""
    ignored_fields = ("kind", "mask_share", "mask_span", "visible_weight")
    names = [field.name for field in fields(BestRqSettings) if field.name not in ignored_fields]
    return [
        f"{name}: {getattr(saved_settings, name)}, now {getattr(settings, name)}"
        for name in names
        if getattr(settings, name) != getattr(saved_settings, name)
    ]


def _sample_indices(corpus: Corpus, structure: Structure) -> list[int]:
    """Utterances from all over a corpus that are long enough for a frame."""
    long_enough_indices = [
        i for i, utterance in enumerate(corpus.utterances) if structure.lengths(utterance.samples)[-1] > 0
    ]
    return long_enough_indices[:: -(-len(long_enough_indices) // _MAX_SAMPLE_UTTERANCES) or 1]


def _load_audio(corpus: Corpus, index: int) -> Audio:
    return corpus.audio(index)[: _MAX_SAMPLE_SECONDS * corpus.sample_rate]
