"""Pre-training of a small encoder from random weights by BEST-RQ."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from secateur.bounds import NonNegativeFinite, NonNegativeInt, PositiveFinite, PositiveInt, Share
from secateur.compress.audio_batches import split_held_out
from secateur.data.batches import Batches, Crop, split_micro_batches
from secateur.data.collate import collate
from secateur.data.corpus import Corpus
from secateur.data.input_features import Waveform
from secateur.data.open import open_corpus
from secateur.data.sources import DataConfig, SyntheticData
from secateur.engine import process
from secateur.engine.loop import LoopConfig, run
from secateur.engine.optim import OptimizerSpec, Schedule
from secateur.engine.progress import Progress
from secateur.engine.train_unit import StepLoss
from secateur.errors import ConfigError
from secateur.pretraining.augment import mix_noise, random_eq, random_gain
from secateur.pretraining.encoder_from_config import ConfigEncoder, FromConfig
from secateur.pretraining.wavlm_encoder import WavLMEncoder, WavLMShape
from secateur.records.environment import Environment
from secateur.records.files import plain
from secateur.records.pretraining import PretrainRecord
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings
from secateur.tasks.best_rq_head import save_best_rq_head

log = logging.getLogger(__name__)

_HELD_OUT = 600.0  # seconds of held-out audio for a corpus without a dev split
_VALIDATION_STEPS = 8  # batches of dev, the same ones in each validation
_MEASURED_STEPS = 50  # batches of train for the corpus statistics of the labels


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Config of a pre-training run."""

    out: str
    """Run folder; the encoder is written to `model/` inside."""
    data: DataConfig = field(default_factory=SyntheticData)
    """Speech; the dev split is held out, or a part of the corpus where it has none."""
    task: BestRqSettings = field(default_factory=BestRqSettings)
    """Labels and mask of BEST-RQ."""
    encoder: WavLMShape | FromConfig = field(default_factory=WavLMShape)
    """Encoder to train."""
    loop: LoopConfig
    """Steps, precision, seed and intervals of the training loop."""
    seconds: PositiveFinite = 12.0
    """Audio in one optimizer step."""
    crop: PositiveFinite = 3.0
    """Longest crop in seconds; utterances shorter than half of this length are never drawn."""
    equalise: Share = 0.8
    """Share of crops with a random frequency response; labels are of the audio after it."""
    fade: Share = 0.5
    """Share of crops with a random gain curve; labels are of the audio after it."""
    disturb: Share = 0.3
    """Share of crops with added noise or another speaker; labels are of the audio before it."""
    front_steps: NonNegativeInt = 0
    """Number of first steps that train the front end alone, to predict log-mel energies. The paper's encoder takes
    log-mel energies as input; a small encoder of samples has to compute them first, and learns to predict labels only
    then. 0 for an encoder of a config."""
    front_weight: NonNegativeFinite = 0.0
    """Weight of the log-mel error (mean square, in units of the corpus variance) in later steps."""
    drift_weight: NonNegativeFinite = 0.0
    """Weight of the error in a crop's average spectrum, relative to 1 for the error in each frame. The average spectrum
    distinguishes speakers and microphones, and a GroupNorm removes it."""
    rate: PositiveFinite = 4e-3
    """Peak learning rate of AdamW, for vectors and the head; see `_schedules`."""
    matrix_rate: PositiveFinite = 0.05
    """Peak learning rate of Muon, for the matrices of the encoder."""
    warmup: NonNegativeInt = 200
    """Steps of linear warmup, both for the front end and when the rest starts."""
    hold: Share = 0.3
    """Share of the later steps with the peak learning rate, before the decay to zero."""
    weight_decay: NonNegativeFinite = 0.01
    """Weight decay of matrices."""
    clip: PositiveFinite = 1.0
    """Largest norm of the gradient."""
    accumulate: PositiveInt = 1
    """Micro-batches in one optimizer step."""

    def __post_init__(self) -> None:
        if isinstance(self.encoder, FromConfig):
            for name in ("front_steps", "front_weight", "drift_weight"):
                if getattr(self, name):
                    raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 for an encoder of a config.")
        if self.front_steps >= self.loop.steps:
            raise ConfigError(
                f"front_steps: got {self.front_steps}, expected 0 to {self.loop.steps - 1}: fewer than loop.steps, "
                f"{self.loop.steps}, so that the rest of the encoder is trained, too."
            )


@dataclass(frozen=True)
class MaskedBatch:
    """Micro-batch of crops with a mask.

    Attributes:
        values: Clean audio (batch, samples) or features, from which the labels are computed.
        inputs: Encoder inputs, with noise and mask.
        mask: (batch, frames), True where masked.
        front: Whether to train the front end alone.
        hidden: Masked frames in the whole optimizer step, over all micro-batches and ranks.
        visible: Unmasked frames in the whole optimizer step.
        files: Ids of the utterances.
    """

    values: Tensor
    inputs: Tensor
    mask: Tensor
    front: bool
    hidden: int
    visible: int
    files: tuple[str, ...]


class BestRqTrainUnit:
    """BEST-RQ as a train unit of the engine's loop.

    Masks depend on seed, step and position in the global batch alone, not on ranks and accumulation. Augmentation also
    depends on the micro-batch, because interfering speech comes from the next crop of the micro-batch.
    """

    def __init__(self, config: PretrainConfig) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.model = _build_encoder(config)
        self.input_features = Waveform(normalize=True, sample_rate=self.model.sample_rate)
        corpus = open_corpus(config.data, sample_rate=self.input_features.sample_rate)
        train, dev = split_held_out(corpus, seconds=_HELD_OUT)
        self.config = config
        self.corpora = {"train": train, "dev": dev}
        self.name = corpus.name
        self.batches = {part: self._batches(self.corpora[part]) for part in self.corpora}
        self.module: nn.Module = self.model.eval()  # no dropout, no layer drop, and no mask but the task's
        self.labeler = self.model.make_labeler(config.task)
        crops = (self.batches["train"].step(step) for step in range(_MEASURED_STEPS))
        self.labeler.fit_statistics(
            self.model.to_inputs(collate(train, part, input_features=self.input_features).values) for part in crops
        )

    def _batches(self, corpus: Corpus) -> Batches:
        config = self.config
        return Batches(
            corpus,
            seconds=config.seconds,
            min_seconds=config.crop / 2,
            max_seconds=config.crop,
            seed=config.loop.seed,
            equal_lengths=True,
        )

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return Muon for matrices and AdamW for vectors and the head, of the front end and of the rest.

        Biases, norms and the mask embedding have no weight decay.
        """
        config, schedules = self.config, _schedules(self.config)
        matrices = {id(weight) for weight in self.model.matrices()}
        # Up to four groups: front, front_matrices, rest and rest_matrices.
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            part = "front" if name.startswith(self.model.front_parts) else "rest"
            parts.setdefault(f"{part}_matrices" if id(parameter) in matrices else part, []).append(parameter)
        return {
            part: OptimizerSpec(
                optimizer=self._muon(parameters) if part.endswith("_matrices") else self._adam(parameters),
                schedule=schedules[part.removesuffix("_matrices")],
                clip=config.clip,
            )
            for part, parameters in parts.items()
        }

    def _adam(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98), eps=1e-6)

    def _muon(self, matrices: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Muon(matrices, lr=self.config.matrix_rate, weight_decay=self.config.weight_decay)

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[MaskedBatch]:
        """Return the micro-batches of a rank, with masks."""
        crops = self.batches["train"].step(step)
        masks = self._masks(crops, step)
        parts = split_micro_batches(crops, rank=rank, world_size=world, accumulate=self.config.accumulate)
        # Masks are drawn for the global batch; each micro-batch takes the rows of its crops.
        positions = {crop: position for position, crop in enumerate(crops)}
        return [self._batch("train", part, masks[[positions[crop] for crop in part]], masks, step) for part in parts]

    def _masks(self, crops: Sequence[Crop], step: int) -> Tensor:
        rng = np.random.default_rng([self.config.loop.seed, 3, step])  # 3: masks; 4 below: augmentation
        frames = self.model.frame_count(crops[0].samples)
        return best_rq.draw_mask(self.config.task, batch=len(crops), frames=frames, rng=rng)

    def _batch(
        self, split: str, crops: Sequence[Crop], mask: Tensor, masks: Tensor, step: int, *, disturb: bool = True
    ) -> MaskedBatch:
        corpus = self.corpora[split]
        values = collate(corpus, crops, input_features=self.input_features).values
        rng = np.random.default_rng([self.config.loop.seed, 4, step, crops[0].index])
        if disturb:
            values = random_eq(
                values, probability=self.config.equalise, rng=rng, sample_rate=self.input_features.sample_rate
            )
            values = random_gain(values, probability=self.config.fade, rng=rng)
        inputs = mix_noise(values, probability=self.config.disturb, rng=rng) if disturb else values
        inputs = self.model.mask_inputs(self.model.to_inputs(inputs), mask, rng)
        # Labels come from `values`, which have the augmentation but neither the added noise nor the mask.
        files = tuple(corpus.utterances[crop.index].id for crop in crops)
        hidden = int(masks.sum())
        return MaskedBatch(
            values=self.model.to_inputs(values),
            inputs=inputs,
            mask=mask,
            front=disturb and step < self.config.front_steps,
            hidden=max(1, hidden),
            visible=max(1, masks.numel() - hidden),
            files=files,
        )

    def begin(self, step: int) -> None:
        """Set BatchNorm alone to train mode, which updates the statistics."""
        for module in self.module.modules():
            module.training = isinstance(module, nn.BatchNorm1d)

    def loss(self, wrapped: nn.Module, batch: MaskedBatch) -> StepLoss:
        """Return the loss per frame of the step in nats: cross-entropy of masked and, weighted, of visible frames."""
        config = self.config
        device = next(wrapped.parameters()).device
        labeler = self.labeler.to(device)
        mask = batch.mask.to(device)
        inputs = batch.inputs.to(device)
        front_output, logits = wrapped(inputs, mask, front=batch.front)
        front_loss = torch.zeros(())
        front_metrics: dict[str, Tensor] = {}
        if front_output is not None:
            front_loss, front_metrics = self._front_loss(front_output, inputs, batch)
        if logits is None:
            return StepLoss(total=front_loss, parts=front_metrics, files=batch.files)
        sums = best_rq.loss(logits, labeler(batch.values.to(device)), mask)
        hidden, visible = sums.masked / batch.hidden, sums.visible / batch.visible
        total = hidden + config.task.visible_weight * visible + config.front_weight * front_loss
        parts = {"hidden": hidden.detach(), "visible": visible.detach(), "accuracy": sums.correct / batch.hidden}
        return StepLoss(total=total, parts=parts | front_metrics, files=batch.files)

    def _front_loss(self, front_output: Tensor, inputs: Tensor, batch: MaskedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log-mel error of the front end per frame of the optimizer step, and the metrics."""
        residual = front_output.float() - self.labeler.normalized_log_mel(inputs)  # (batch, frames, 2 · mels)
        frames = batch.hidden + batch.visible
        error = residual.square().mean(dim=-1).sum() / frames
        # The rows have equal length, so that the mean over frames is a mean over crops.
        drift = residual.mean(dim=1).square().mean(dim=-1).sum() * residual.shape[1] / frames
        metrics = {"front": error.detach(), "drift": drift.detach()}
        return error + self.config.drift_weight * drift, metrics

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return no metrics besides the parts of the loss."""
        return {}

    def validate(self, step: int) -> dict[str, float]:
        """Return cross-entropy and accuracy on crops of `dev` without augmentation, the same crops at every step."""
        self.module.eval()
        sums: Counter[str] = Counter()
        for index in range(_VALIDATION_STEPS):
            crops = self.batches["dev"].step(index)
            masks = self._masks(crops, index)
            with torch.no_grad():
                step_loss = self.loss(self.module, self._batch("dev", crops, masks, masks, index, disturb=False))
            sums.update({name: float(value) for name, value in step_loss.parts.items()})
        return {name: value / _VALIDATION_STEPS for name, value in sums.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the weights; the labels follow from seed and data."""
        return self.module.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Load the weights."""
        self.module.load_state_dict(state)


def _build_encoder(config: PretrainConfig) -> WavLMEncoder | ConfigEncoder:
    if isinstance(config.encoder, FromConfig):
        return ConfigEncoder(config.encoder, config.task)
    return WavLMEncoder(config.encoder, config.task)


def _schedules(config: PretrainConfig) -> dict[str, Schedule]:
    """Return the schedules of the learning rate, relative to the peak.

    The rate of the front end rises, is constant until half of the front end's steps, falls to a fifth by their end and
    to zero by the end of training. The rate of the rest is zero during these steps, then rises, is constant for a share
    of the remaining steps and falls to zero.
    """
    steps = config.loop.steps
    front_steps = config.front_steps
    warmup = min(config.warmup, max(1, (steps - front_steps) // 4))
    hold = front_steps + max(warmup, round(config.hold * (steps - front_steps)))
    encoder_points = ((front_steps - 1, 0.0), (front_steps + warmup, 1.0), (hold, 1.0), (steps, 0.0))
    if not front_steps:
        return {"front": Schedule(points=encoder_points), "rest": Schedule(points=encoder_points)}
    front_points = (
        (-1, 0.0),
        (min(warmup, front_steps // 4), 1.0),
        (front_steps // 2, 1.0),
        (front_steps, 0.2),
        (steps, 0.0),
    )
    return {"front": Schedule(points=front_points), "rest": Schedule(points=encoder_points)}


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    on_start: Callable[[], None] = lambda: None,
    on_progress: Callable[[Progress], None] | None = None,
) -> PretrainRecord:
    """Train an encoder from random weights and return the record, which is also written to `out`.

    `out/model` is a Hugging Face folder with the encoder in float32 and its feature extractor, and with the BEST-RQ
    head in a separate file, from which the task `best_rq` of `prune` continues.

    Args:
        config: Config of the run.
        resume: Whether to continue from the last checkpoint.
        on_start: Function that the main process calls once speech and model are loaded, before any file is written.
        on_progress: Function that is called after each step.
    """
    folder = Path(config.out)
    train_unit = BestRqTrainUnit(config)
    if process().is_main_process:
        on_start()
        folder.mkdir(parents=True, exist_ok=True)
    process().wait_for_everyone()
    result = run(train_unit, config.loop, phase="pretrain", folder=folder, resume=resume, on_progress=on_progress)
    record = PretrainRecord(
        config=plain(dataclasses.replace(config, out=folder.name)),
        data=train_unit.name,
        sample_rate=train_unit.input_features.sample_rate,
        parameters=sum(p.numel() for p in train_unit.model.encoder.parameters()),
        seconds=result.seconds,
        train=result.metrics,
        dev=result.validation,
        environment=Environment.current(),
    )
    if process().is_main_process:
        train_unit.model.save(folder / "model")
        save_best_rq_head(folder / "model", head=train_unit.model.head, labeler=train_unit.labeler)
        record.write(folder / "record.json")
    log.info("the encoder is in %s", folder / "model")
    return record
