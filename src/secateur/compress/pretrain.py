"""Pre-training a small encoder from nothing by BEST-RQ, on the engine that also prunes."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data.batches import Batches, Crop, share
from secateur.data.collate import collate
from secateur.data.config import DataConfig, SyntheticData
from secateur.data.corpus import Corpus
from secateur.data.disturb import disturbed
from secateur.data.open import open_corpus
from secateur.engine.loop import LoopConfig, run
from secateur.engine.optim import Optimiser, Schedule
from secateur.engine.progress import Progress
from secateur.engine.trainee import StepLoss
from secateur.objective.tasks import best_rq
from secateur.objective.tasks.best_rq import BestRqTask
from secateur.records import environment, write_json

log = logging.getLogger(__name__)

_VALIDATION_STEPS = 8  # batches of dev, the same ones each time
_MEASURED_STEPS = 50  # batches of train that the corpus statistics of the labels come from


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The shape of a WavLM encoder; its front end has the kernels and strides of all the family.

    Attributes:
        conv_channels: By layer. The first layers run at thousands of frames a second and take the time, the last
            at 200 to 50 and cost next to nothing.
        front_norm: `layer` as in WavLM Large, `group` as in Base. GroupNorm takes a recording's average spectrum
            out of what the encoder hears, and with it most of what tells speakers apart.
        pre_norm: As in Large; post-norm, as in Base, learns several times slower at this size.
        positions: Taps of the positional conv.
    """

    conv_channels: tuple[int, ...] = (32, 32, 64, 64, 64, 128, 128)
    front_norm: Literal["layer", "group"] = "layer"
    width: int = 192
    layers: int = 4
    heads: int = 6
    feed_forward: int = 768
    positions: int = 64
    position_groups: int = 16
    pre_norm: bool = True


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pre-training run.

    Attributes:
        out: The run folder; the encoder lands in its `model/`.
        data: Speech with the splits `train` and `dev`.
        seconds: Audio in one optimiser step.
        crop: The longest crop, in seconds; utterances shorter than half of it are never drawn.
        disturb: Share of the crops that get noise or another voice laid over them; labels come from clean speech.
        front_steps: So many steps first train the front end alone, to give the log-mel energies of what it hears:
            the paper's encoder is given those, ours has to make them, and learns what to say of them only then.
        front_weight: Of that error (mean square, in units of the corpus's variance) in all later steps.
        rate: The highest learning rate, reached after `warmup` steps, in the front end's steps and again in the
            others, held until `hold` (a share of all steps), then falling linearly to zero.
        accumulate: Micro-batches in one optimiser step.
    """

    out: str
    data: DataConfig = field(default_factory=SyntheticData)
    task: BestRqTask = field(default_factory=BestRqTask)
    encoder: EncoderShape = field(default_factory=EncoderShape)
    loop: LoopConfig
    seconds: float = 12.0
    crop: float = 3.0
    disturb: float = 0.3
    front_steps: int = 0
    front_weight: float = 1.0
    rate: float = 2e-3
    warmup: int = 200
    hold: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1


@dataclass(frozen=True)
class MaskedBatch:
    """One micro-batch: crops, and which of their frames are hidden."""

    values: Tensor  # (batch, samples), clean and normalised
    heard: Tensor  # (batch, samples), what the encoder hears
    mask: Tensor  # (batch, frames), True where hidden
    front: bool  # train the front end alone
    hidden: int  # masked frames in the whole optimiser step, all micro-batches and ranks
    visible: int  # its other frames
    files: tuple[str, ...]


class MaskedEncoder(nn.Module):
    """A WavLM encoder, the layer that guesses labels and the one that reads log-mel energies off the front end.

    Only the encoder is kept.
    """

    module_has_unused = True  # the front end's own steps leave the rest without gradient

    def __init__(self, shape: EncoderShape, task: BestRqTask) -> None:
        from transformers import WavLMConfig, WavLMModel

        super().__init__()
        self.encoder = WavLMModel(
            WavLMConfig(
                conv_dim=shape.conv_channels,
                feat_extract_norm=shape.front_norm,
                conv_bias=shape.front_norm == "layer",
                hidden_size=shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.feed_forward,
                num_conv_pos_embeddings=shape.positions,
                num_conv_pos_embedding_groups=shape.position_groups,
                do_stable_layer_norm=shape.pre_norm,
                # Two million parameters see each crop once or a few times: they underfit, dropout would cost.
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                final_dropout=0.0,
                layerdrop=0.0,
            )
        )
        self.codebooks = task.codebooks
        self.head = nn.Linear(shape.width, task.codebooks * task.entries)
        self.front = nn.Linear(shape.conv_channels[-1], 2 * task.mels)

    def forward(self, values: Tensor, mask: Tensor, *, front: bool) -> tuple[Tensor, Tensor | None]:
        """What the front end makes of log-mel, and the guesses unless `front` asks for the former alone.

        Args:
            values: (batch, samples).
            mask: (batch, frames), True where hidden; it comes after the front end.
            front: Stop there.

        Returns:
            (batch, frames, 2 · mels), and logits (batch, frames, codebooks, entries) or None.
        """
        if front:
            features = self.encoder.feature_extractor(values).transpose(1, 2)
            return self.front(self.encoder.feature_projection(features)[1]), None
        found = self.encoder(values, mask_time_indices=mask)
        logits = self.head(found.last_hidden_state).unflatten(-1, (self.codebooks, -1))
        return self.front(found.extract_features), logits


class BestRqTrainee:
    """BEST-RQ as the engine's loop trains it.

    Masks follow from seed, step and place in the global batch, whatever the ranks and the accumulation;
    disturbances also from the micro-batch, since a crop is disturbed by its neighbour there.
    """

    def __init__(self, config: PretrainConfig) -> None:
        corpus = open_corpus(config.data)
        self.config, self.corpora = config, {part: corpus.split(part) for part in ("train", "dev")}
        self.name = corpus.name
        self.batches = {part: self._batches(self.corpora[part]) for part in self.corpora}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.module: nn.Module = MaskedEncoder(config.encoder, config.task)
        self.module.eval()  # no dropout, no layer-drop, no SpecAugment; what is masked is what we mask
        self.labeller = best_rq.Labeller(config.task)
        train = self.corpora["train"]
        crops = (self.batches["train"].step(step) for step in range(_MEASURED_STEPS))
        self.labeller.measure(collate(train, part, normalize=True).values for part in crops)

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

    def optimisers(self) -> dict[str, Optimiser]:
        """AdamW on everything; biases, norms and the mask vector do not decay."""
        config, parameters = self.config, list(self.module.parameters())
        optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.rate,
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        return {"weights": Optimiser(optimiser=optimiser, schedule=_schedule(config), clip=config.clip)}

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[MaskedBatch]:
        """This rank's crops with their masks."""
        crops = self.batches["train"].step(step)
        masks = self._masks(crops, step)
        parts = share(crops, rank=rank, world=world, accumulate=self.config.accumulate)
        places = {crop: place for place, crop in enumerate(crops)}
        return [self._batch("train", part, masks[[places[crop] for crop in part]], masks, step) for part in parts]

    def _masks(self, crops: Sequence[Crop], step: int) -> Tensor:
        task = self.config.task
        rng = np.random.default_rng([self.config.loop.seed, 3, step])
        frames = best_rq.frame_count(crops[0].samples)
        mask = best_rq.span_mask(batch=len(crops), frames=frames, share=task.mask_share, span=task.mask_span, rng=rng)
        mask[:, 0] |= ~mask.any(axis=1)  # a short crop may have drawn no span
        return torch.from_numpy(mask)

    def _batch(
        self, split: str, crops: Sequence[Crop], mask: Tensor, masks: Tensor, step: int, *, disturb: bool = True
    ) -> MaskedBatch:
        corpus = self.corpora[split]
        values = collate(corpus, crops, normalize=True).values
        rng = np.random.default_rng([self.config.loop.seed, 4, step, crops[0].index])
        heard = disturbed(values, share=self.config.disturb, rng=rng) if disturb else values
        files = tuple(corpus.utterances[crop.index].id for crop in crops)
        hidden = int(masks.sum())
        return MaskedBatch(
            values=values,
            heard=heard,
            mask=mask,
            front=disturb and step < self.config.front_steps,
            hidden=max(1, hidden),
            visible=max(1, masks.numel() - hidden),
            files=files,
        )

    def begin(self, step: int) -> None:
        """Nothing is drawn per step."""

    def loss(self, wrapped: nn.Module, batch: MaskedBatch) -> StepLoss:
        """Cross-entropy per frame of the optimiser step, in nats: hidden ones, plus the visible ones by weight."""
        config, device = self.config, next(wrapped.parameters()).device
        labeller, mask = self.labeller.to(device), batch.mask.to(device)
        heard = batch.heard.to(device)
        made, logits = wrapped(heard, mask, front=batch.front)
        error = (made.float() - labeller.plain(heard)).square().mean(dim=-1).sum() / (batch.hidden + batch.visible)
        if logits is None:
            return StepLoss(total=error, parts={"front": error.detach()}, files=batch.files)
        found = best_rq.loss(logits, labeller(batch.values.to(device)), mask)
        hidden, visible = found.hidden / batch.hidden, found.visible / batch.visible
        total = hidden + config.task.visible_weight * visible + config.front_weight * error
        parts = {"hidden": hidden.detach(), "visible": visible.detach(), "front": error.detach()}
        return StepLoss(total=total, parts=parts | {"accuracy": found.hits / batch.hidden}, files=batch.files)

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Nothing besides the parts is logged."""
        return {}

    def validate(self, step: int) -> dict[str, float]:
        """Cross-entropy and accuracy on undisturbed crops of `dev`, the same at every step."""
        sums: Counter[str] = Counter()
        for index in range(_VALIDATION_STEPS):
            crops = self.batches["dev"].step(index)
            masks = self._masks(crops, index)
            with torch.no_grad():
                found = self.loss(self.module, self._batch("dev", crops, masks, masks, index, disturb=False))
            sums.update({name: float(value) for name, value in found.parts.items()})
        return {name: value / _VALIDATION_STEPS for name, value in sums.items()}

    def state(self) -> dict[str, Tensor]:
        """The weights; the labels follow from seed and data."""
        return self.module.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts the weights back."""
        self.module.load_state_dict(state)


def _schedule(config: PretrainConfig) -> Schedule:
    """The learning rate's course: up and level in the front end's steps, then up again, level and down to zero."""
    steps, front = config.loop.steps, config.front_steps
    warmup = min(config.warmup, max(1, (steps - front) // 4))
    hold = max(front + warmup, round(config.hold * steps))
    points: list[tuple[float, float]] = [(-1, 0.0)]
    if front:
        points += [(min(warmup, front), 1.0), (front, 1.0), (front, 0.0)]
    return Schedule(points=(*points, (front + warmup, 1.0), (hold, 1.0), (steps, 0.0)))


def pretrain(
    config: PretrainConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Trains an encoder from nothing; returns the record that is also left in `out`.

    `out/model` is a plain HF folder: the encoder in float32, and a feature extractor.
    """
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    trainee = BestRqTrainee(config)
    result = run(trainee, config.loop, phase="pretrain", folder=folder, resume=resume, on_progress=on_progress)
    assert isinstance(trainee.module, MaskedEncoder)
    save_encoder(trainee.module.encoder, folder / "model")
    record = {
        "format": 1,
        "verb": "pretrain",
        "config": dataclasses.replace(config, out=folder.name),
        "data": trainee.name,
        "parameters": sum(p.numel() for p in trainee.module.encoder.parameters()),
        "seconds": result.seconds,
        "train": result.figures,
        "dev": result.validation,
        "environment": environment(),
    }
    write_json(folder / "record.json", record)
    log.info("the encoder is in %s", folder / "model")
    return record


def save_encoder(encoder: Any, folder: Path) -> None:
    """Writes a HF folder with the feature extractor that the encoder was trained with."""
    from transformers import Wav2Vec2FeatureExtractor

    encoder.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(  # type: ignore[no-untyped-call]
        feature_size=1,
        sampling_rate=16_000,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=False,
    )
    extractor.save_pretrained(folder)
