"""BEST-RQ as a task of pruning: an encoder predicts the labels of masked frames, as in pre-training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import Audio
from secateur.hf.model_view import ConfigView
from secateur.records.score import ScoreInfo
from secateur.structure import Structure
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler
from secateur.tasks.best_rq_head import HEAD_FILE, read_best_rq_head, save_best_rq_head
from secateur.tasks.noise_mask import NoiseMask
from secateur.tasks.task import (
    BuildInputs,
    EncoderInfo,
    FilteredCorpus,
    Metric,
    StepTargets,
    TaskBatch,
    filter_short_audio,
)

# Purposes of a random draw, the first number of its seed.
_MASK = 0
_NOISE = 1

# Utterances, and seconds of each, for the corpus statistics of the labels.
_MAX_SAMPLE_UTTERANCES = 256
_MAX_SAMPLE_SECONDS = 16


@dataclass(frozen=True, kw_only=True)
class BestRq:
    """Self-supervised prediction of frames under noise, by labels from a random projection instead of a transcript."""

    kind: Literal["best_rq"] = "best_rq"
    head_class: ClassVar[str] = ""
    settings: BestRqSettings | None = None
    """labels and mask; null: those of the encoder's pre-training, or the defaults where it had none"""

    def build(self, inputs: BuildInputs) -> BestRqTask:
        """Return the task for a model; see `build_task`."""
        assert inputs.encoder_info is not None
        width = ConfigView.of_config(inputs.model_config).encoder_config.hidden_size
        return build_best_rq(
            self, source=inputs.source, width=width, corpus=inputs.corpus, encoder_info=inputs.encoder_info
        )


@dataclass(frozen=True)
class MaskedTargets:
    """Targets of a batch with rows of equal length.

    Attributes:
        values: Unmasked inputs, (B, samples) or (B, positions, width), from which the labels are computed.
        mask: (B, T), True where masked.
        balance: Ratio of masked to unmasked frames in the whole step.
    """

    values: Tensor
    mask: Tensor
    balance: float


class MaskedStepTargets:
    """Masks of a step, each drawn from the key of the step and the position of the utterance in the step alone."""

    def __init__(
        self, noise_mask: NoiseMask, settings: BestRqSettings, frames: Sequence[int], *, key: Sequence[int]
    ) -> None:
        self.noise_mask = noise_mask
        self.key = tuple(key)
        self.masks = [
            best_rq.draw_mask(settings, batch=1, frames=count, rng=self._rng(_MASK, position))
            for position, count in enumerate(frames)
        ]
        self.count = sum(int(mask.sum()) for mask in self.masks)

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """Return the audio with noise in the masked frames, and the audio before masking as targets."""
        assert audio.mask is None, "rows have equal length"
        noisy_rows = [
            self.noise_mask.add_noise(row[None], self.masks[position], self._rng(_NOISE, position))
            for row, position in zip(audio.values, positions, strict=True)
        ]
        mask = torch.cat([self.masks[position] for position in positions])  # (B, T)
        # Both counts are over the whole step, so that micro-batches add up to the loss of the step.
        visible = sum(row_mask.numel() for row_mask in self.masks) - self.count
        return TaskBatch(
            replace(audio, values=torch.cat(noisy_rows)),
            MaskedTargets(audio.values, mask, self.count / max(1, visible)),
        )

    def _rng(self, purpose: int, position: int) -> np.random.Generator:
        return np.random.default_rng([purpose, *self.key, position])


class BestRqTask:
    """Prediction of the labels of masked frames, by a head of the task's own beside a bare encoder."""

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
            labeler: Labeler of the unmasked inputs.
            noise_mask: Replacement of masked frames by noise.
            head: Module from the last hidden state, (…, D), to the logits of all codebooks, (…, codebooks · entries).
            new_head: Whether the head is newly initialized.
            notes: Reasons for a new head.
        """
        self.labeler = labeler
        self.noise_mask = noise_mask
        self.head = head
        self.new_head = new_head
        self.notes = notes

    @property
    def settings(self) -> BestRqSettings:
        """Settings of the labels and the mask."""
        return self.labeler.settings

    def fields(self) -> dict[str, Any]:
        """Return no fields: the model has no head."""
        return {}

    def init_head(self, model: Any) -> None:
        """Do nothing: a new head keeps the random weights."""

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Return the utterances with audio for at least a frame.

        Raises:
            DataError: No utterance is long enough.
        """
        return filter_short_audio(corpus, frames)

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int]
    ) -> StepTargets:
        """Return the masks of a step, with the number of masked frames as the count."""
        return MaskedStepTargets(self.noise_mask, self.settings, frames, key=key)

    def loss(self, output: Tensor, frames: Tensor, targets: MaskedTargets, *, model: Any = None) -> Tensor:
        """Return the summed cross-entropy of the masked frames in nats, plus, weighted, of the unmasked frames.

        The cross-entropy of a frame is the mean over codebooks. Divided by the masked frames of the step, the sum is
        the loss of pre-training: a mean over masked frames plus the weight times a mean over unmasked frames.

        Args:
            output: (B, T, D), the last hidden state of the encoder.
            frames: (B,); all frames are valid.
            targets: Unmasked inputs and mask.
            model: Unused; the head belongs to the task.
        """
        loss_sums = self.loss_sums(self.code_logits(output), targets)
        return loss_sums.masked + self.settings.visible_weight * targets.balance * loss_sums.visible

    def loss_sums(self, logits: Tensor, targets: MaskedTargets) -> best_rq.BestRqLossSums:
        """Return the loss sums of logits (B, T, codebooks, entries) against the labels of the unmasked inputs."""
        device = logits.device
        labels = self.labeler.to(device)(self.noise_mask.label_inputs(targets.values.to(device)))
        return best_rq.loss(logits, labels, targets.mask.to(device))

    def code_logits(self, state: Tensor) -> Tensor:
        """Return the logits of a last hidden state: (B, T, D) -> (B, T, codebooks, entries)."""
        logits: Tensor = self.head(state)  # (B, T, codebooks · entries)
        return torch.unflatten(logits, -1, (self.settings.codebooks, -1))

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a model for a batch, (B, T, codebooks, entries)."""
        state: Tensor = model(**inputs).last_hidden_state
        return self.code_logits(state)

    def metric(self) -> Metric:
        """Return a new metric of accuracy and loss under the mask."""
        return MaskedAccuracy(self)

    def save(self, folder: Path) -> None:
        """Write the head and the labeler of the targets."""
        save_best_rq_head(folder, head=self.head, labeler=self.labeler)

    def restore(self, folder: Path) -> None:
        """Load the head and the labeler.

        Raises:
            ModelError: The file is missing or damaged.
        """
        read_best_rq_head(folder / HEAD_FILE).restore(self.head, self.labeler)


class MaskedAccuracy:
    """Accuracy and cross-entropy, in nats, of the predicted labels under the mask."""

    def __init__(self, task: BestRqTask) -> None:
        self.task = task
        self.frames = 0
        self.hits = 0.0
        self.loss = 0.0

    def update(self, predictions: Tensor, frames: Tensor, targets: MaskedTargets) -> None:
        """Add a batch of logits (B, T, codebooks, entries)."""
        loss_sums = self.task.loss_sums(predictions, targets)
        self.frames += int(targets.mask.sum())
        self.hits += float(loss_sums.correct)
        self.loss += float(loss_sums.masked)

    def compute(self) -> dict[str, float]:
        """Return ``masked_accuracy`` and ``masked_loss``."""
        frames = max(1, self.frames)
        return {"masked_accuracy": self.hits / frames, "masked_loss": self.loss / frames}


def build_best_rq(
    config: BestRq, *, source: str | Path, width: int, corpus: Corpus, encoder_info: EncoderInfo
) -> BestRqTask:
    """Return the task for an encoder, with the head saved beside the encoder or with a new head.

    Args:
        config: Config of the task.
        source: Folder or hub id of the encoder.
        width: Dimension of its last hidden state.
        corpus: Corpus for the statistics of the labels of a new head.
        encoder_info: Input features, structure and files of the encoder.

    Raises:
        ConfigError: The labels do not support the front end of the encoder, or its inputs do not support the settings.
        ModelError: The saved head is damaged, or belongs to another encoder.
    """
    noise_mask = NoiseMask(encoder_info.structure)
    path = encoder_info.find_file(HEAD_FILE)
    saved_head = None if path is None else read_best_rq_head(path)
    settings = config.settings or (saved_head.settings if saved_head is not None else _default_settings(noise_mask))
    labeler = noise_mask.make_labeler(settings, sample_rate=corpus.sample_rate)
    # The head's initial weights depend on the seed alone, and no other draw of the run depends on the head.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = nn.Linear(width, settings.codebooks * settings.entries)
    reason = f"there is no saved head beside {str(source)!r}"
    if saved_head is not None:
        changed_settings = _changed_settings(settings, saved_head.settings)
        if not changed_settings:
            saved_head.restore(head, labeler)
            return BestRqTask(labeler, noise_mask, head, new_head=False)
        reason = f"the head of {str(source)!r} was trained with other settings ({', '.join(changed_settings)})"
    sample_indices = (
        _sample_indices(corpus, encoder_info.structure) if settings.plain_codebooks or settings.crop_codebooks else []
    )
    if sample_indices:
        labeler.fit_statistics(
            noise_mask.label_inputs(encoder_info.input_features([_load_audio(corpus, index)])[0])
            for index in sample_indices
        )
    return BestRqTask(
        labeler, noise_mask, head, new_head=True, notes=(f"the BEST-RQ head is newly initialized: {reason}",)
    )


def _default_settings(noise_mask: NoiseMask) -> BestRqSettings:
    """Return the default settings, without codebooks of whole crops for an encoder that takes features."""
    return BestRqSettings() if noise_mask.width is None else BestRqSettings(crop_codebooks=0)


def _changed_settings(settings: BestRqSettings, saved_settings: BestRqSettings) -> list[str]:
    """Return the label settings that differ from a saved head's; the mask may differ."""
    # These fields change the mask or the loss, not the labels that the head predicts.
    ignored_fields = ("kind", "mask_share", "mask_span", "visible_weight")
    names = [field.name for field in fields(BestRqSettings) if field.name not in ignored_fields]
    return [
        f"{name}: {getattr(saved_settings, name)}, now {getattr(settings, name)}"
        for name in names
        if getattr(settings, name) != getattr(saved_settings, name)
    ]


def _sample_indices(corpus: Corpus, structure: Structure) -> list[int]:
    """Return the indices of evenly spaced utterances of a corpus that are long enough for a frame."""
    long_enough_indices = [
        i for i, utterance in enumerate(corpus.utterances) if structure.lengths(utterance.samples)[-1] > 0
    ]
    # 600 utterances and at most 256 give a stride of 3 and 200 indices.
    stride = math.ceil(len(long_enough_indices) / _MAX_SAMPLE_UTTERANCES)
    return long_enough_indices[:: max(1, stride)]


def _load_audio(corpus: Corpus, index: int) -> Audio:
    return corpus.audio(index)[: _MAX_SAMPLE_SECONDS * corpus.sample_rate]
