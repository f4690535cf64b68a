"""BEST-RQ: prediction, under a mask, of the labels that a frozen random-projection quantizer gives log-mel frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from secateur.bounds import NonNegativeFinite, NonNegativeInt, PositiveInt, ProperShare, Seed
from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError

# Log-mel windows in samples, at 16 kHz 25 ms every 10 ms.
_WINDOW = 400
_HOP = 160
_FFT = 512
# Hop and receptive field of the encoder in samples.
STRIDE = 320
FIELD = 400
#: Log-mel frames for each frame of the encoder.
_STACK = STRIDE // _HOP


@dataclass(frozen=True, kw_only=True, slots=True)
class BestRqSettings:
    """Labels and mask of BEST-RQ."""

    kind: Literal["best_rq"] = "best_rq"
    mels: PositiveInt = 80
    """Mel bands of the labeled features, where the encoder takes samples."""
    frame_codebooks: NonNegativeInt = 3
    """Codebooks on frames normalized over their crop, which keep the words and little of the speaker."""
    plain_codebooks: NonNegativeInt = 3
    """Codebooks on frames normalized over the corpus, which keep words, speaker and channel."""
    crop_codebooks: NonNegativeInt = 4
    """Codebooks on mean and standard deviation of the crop's spectrum, with one label for all its frames, which keep
    speaker and channel."""
    entries: Annotated[int, Ge(2)] = 256
    """Entries of each codebook."""
    width: PositiveInt = 16
    """Dimension of an entry."""
    mask_share: ProperShare = 0.45
    """Expected share of masked frames."""
    mask_span: PositiveInt = 10
    """Length of a masked span in encoder frames."""
    visible_weight: NonNegativeFinite = 0.5
    """Loss weight of the unmasked frames, relative to 1 for the masked ones; 0 in the paper."""
    seed: Seed = 0
    """Seed of the quantizer."""

    def __post_init__(self) -> None:
        if not self.codebooks:
            raise ConfigError(
                "frame_codebooks, plain_codebooks, crop_codebooks: got 0 for all three, expected at least one codebook."
            )

    @property
    def codebooks(self) -> int:
        """Number of codebooks, and so of labels of a frame."""
        return self.frame_codebooks + self.plain_codebooks + self.crop_codebooks


@dataclass(frozen=True, slots=True)
class BestRqLossSums:
    """Loss sums over the frames of a batch, each frame averaged over codebooks, to be divided by global counts.

    Attributes:
        masked: Cross-entropy of the masked frames, in nats.
        visible: Cross-entropy of the unmasked frames, in nats.
        correct: Number of masked frames that are predicted correctly.
    """

    masked: Tensor
    visible: Tensor
    correct: Tensor


def frame_count(samples: int) -> int:
    """Return the number of frames that a wav2vec 2.0 front end makes from a number of samples."""
    return max(0, (samples - FIELD) // STRIDE + 1)


class LogMel(nn.Module):
    """Log-mel filterbank energies every 160 samples, two for each frame of the encoder and centered on the frame."""

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int = 80, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        # Triangles that peak at 1 on HTK's mel scale, 2595 log10(1 + f / 700), from 20 Hz to half the sampling rate.
        filters = mel_filter_bank(
            num_frequency_bins=_FFT // 2 + 1,
            num_mel_filters=mels,
            min_frequency=20.0,
            max_frequency=sample_rate / 2,
            sampling_rate=sample_rate,
            norm=None,
            mel_scale="htk",
        )  # (257, mels), float64
        self.register_buffer("filters", torch.from_numpy(np.ascontiguousarray(filters.T, np.float32)), persistent=False)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Return log-mel energies of samples: (batch, samples) -> (batch, 2 · frames, mels), for the encoder's frames.

        Frame t of the encoder spans samples 320 t to 320 t + 399. Its two windows start at 320 t - 80 and 320 t + 80,
        so that the pair has the same center. Frame 1, for example, spans 320 to 719; its windows span 240 to 639 and
        400 to 799.
        """
        # 80 zeros in front move window i from sample 160 i to 160 i - 80.
        values = functional.pad(values.float(), (_HOP // 2, _HOP // 2))
        frames = values.unfold(-1, _WINDOW, _HOP)  # (batch, samples) -> (batch, windows, 400)
        count = _STACK * frame_count(values.shape[-1] - _HOP)
        spectrum = torch.fft.rfft(frames[:, :count] * self.window, n=_FFT)  # (batch, 2 · frames, 257)
        power = spectrum.real.square() + spectrum.imag.square()
        with torch.autocast(values.device.type, enabled=False):  # bf16 would round the labels
            return torch.log(power @ self.filters.T + 1e-5)


class FrameWindows(nn.Module):
    """Windows of an encoder's input features, centered on the frames of the encoder.

    Like `LogMel`, but the encoder's own input features are labeled, as in the paper.
    """

    def __init__(self, step: int, count_frames: Callable[[int], int]) -> None:
        """
        Args:
            step: Feature positions from one frame to the next.
            count_frames: Function from a number of feature positions to the number of frames.
        """
        super().__init__()
        self.step, self.count_frames = step, count_frames

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Return the concatenated windows: (batch, positions, width) -> (batch, step · frames, width).

        With a step of 4 the window of frame 1 has positions 2 to 5, and that of frame 0 positions -2 to 1. Positions
        beyond an end repeat the first or the last one.
        """
        positions = values.shape[1]
        window_positions = torch.arange(self.step * self.count_frames(positions), device=values.device) - self.step // 2
        return values[:, window_positions.clamp(0, positions - 1)].float()


class RandomProjectionQuantizer(nn.Module):
    """Quantizer with frozen random projections and codebooks, from a vector to a label for each codebook.

    Source: Chiu et al. 2022, arXiv 2202.01855, section 3.1: label = argmin over i of ‖norm(c_i) - norm(A x)‖ with A
    Xavier-uniform and c standard normal. Differs from the paper: several codebooks with separate projections (as in
    Google's USM, arXiv 2303.01037), because training with one is too slow for a model of two million parameters.
    """

    projection: Tensor
    entries: Tensor

    def __init__(self, features: int, settings: BestRqSettings) -> None:
        super().__init__()
        # The buffers are part of the saved labeler: another order of these draws would make other labels.
        generator = torch.Generator().manual_seed(settings.seed)
        bound = math.sqrt(6.0 / (features + settings.width))
        projection = torch.rand(settings.codebooks, features, settings.width, generator=generator)
        entries = torch.randn(settings.codebooks, settings.width, settings.entries, generator=generator)
        self.register_buffer("projection", (2.0 * projection - 1.0) * bound)
        self.register_buffer("entries", functional.normalize(entries, dim=1))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Return labels of features: (batch, frames, codebooks, features) -> (batch, frames, codebooks), int64.

        On the unit sphere the nearest entry has the largest inner product, and scaling the projected vector does not
        change which entry that is; so only the entries are normalized.
        """
        with torch.autocast(features.device.type, enabled=False):
            projected = torch.einsum("btcf,cfw->btcw", features.float(), self.projection)  # features -> width
            return torch.einsum("btcw,cwe->btce", projected, self.entries).argmax(dim=-1)


class RandomProjectionLabeler(nn.Module):
    """Labeler of the frames of clean speech.

    Source: Chiu et al. 2022, arXiv 2202.01855. Differs from the paper: besides frames normalized over their crop,
    codebooks may label frames normalized over the corpus, and statistics of the whole crop. Without such labels the
    encoder has no reason to keep the differences between speakers.
    """

    mean: Tensor
    spread: Tensor
    crop_mean: Tensor
    crop_spread: Tensor

    def __init__(
        self,
        settings: BestRqSettings,
        windows: FrameWindows | None = None,
        *,
        width: int | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        """
        Args:
            settings: Codebooks and features of the labels.
            windows: Windows of the encoder's input features; None for an encoder that takes samples, where log-mel
                energies are computed here.
            width: Dimension of the encoder's input features.
            sample_rate: Sampling rate in hertz.

        Raises:
            ConfigError: The settings have codebooks for whole crops, which exist for samples only.
        """
        super().__init__()
        if windows is not None and settings.crop_codebooks:
            raise ConfigError(
                f"crop_codebooks: got {settings.crop_codebooks}, expected 0 for an encoder that takes features."
            )
        self.settings = settings
        self.log_mel: nn.Module = LogMel(settings.mels, sample_rate) if windows is None else windows
        self.stack = _STACK if windows is None else windows.step
        mels = settings.mels if width is None else width
        # The name is part of the state dict of saved labelers.
        self.quantiser = RandomProjectionQuantizer(self.stack * mels, settings)
        for name, size in (("mean", mels), ("crop_mean", 2 * mels)):
            self.register_buffer(name, torch.zeros(size))
            # Ones until `fit_statistics`, so that a labeler without corpus codebooks needs no statistics.
            self.register_buffer(name.replace("mean", "spread"), torch.ones(size))

    def fit_statistics(self, crops: Iterable[Tensor]) -> None:
        """Set the corpus statistics from crops: (batch, samples) with unit variance or (batch, positions, width)."""
        frames = [self.log_mel(values) for values in crops]
        flat = torch.cat([frame.flatten(0, 1) for frame in frames])  # (all frames, mels)
        crop_statistics = torch.cat([_statistics(frame) for frame in frames])  # (all crops, 2 · mels)
        self.mean = flat.mean(dim=0)
        self.spread = flat.std(dim=0) + 1e-3
        correction = min(1, len(crop_statistics) - 1)  # the sample deviation of one crop would be 0 / 0
        self.crop_mean = crop_statistics.mean(dim=0)
        self.crop_spread = crop_statistics.std(dim=0, correction=correction) + 1e-3

    @torch.no_grad()
    def normalized_log_mel(self, values: Tensor) -> Tensor:
        """Return log-mel energies, standardized over the corpus: (batch, samples) -> (batch, frames, 2 · mels)."""
        return _stack_frames((self.log_mel(values) - self.mean) / self.spread, self.stack)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Return the labels of samples (batch, samples) with unit variance, or of features: (batch, frames, codebooks).

        Labels are int64. The codebooks come in the order frame, plain, crop.
        """
        log_mel = self.log_mel(values)
        crop_normalized = (log_mel - log_mel.mean(dim=1, keepdim=True)) / (log_mel.std(dim=1, keepdim=True) + 1e-3)
        corpus_normalized = (log_mel - self.mean) / self.spread
        frames = log_mel.shape[1] // self.stack
        crop = (_statistics(log_mel) - self.crop_mean) / self.crop_spread  # (batch, 2 · mels)
        crop = crop[:, None].expand(-1, frames, -1)  # (batch, 2 · mels) -> (batch, frames, 2 · mels)
        settings = self.settings
        views = [_stack_frames(crop_normalized, self.stack)] * settings.frame_codebooks
        views += [_stack_frames(corpus_normalized, self.stack)] * settings.plain_codebooks
        views += [crop] * settings.crop_codebooks
        # codebooks views of (batch, frames, features) -> (batch, frames, codebooks, features) -> labels
        return torch.as_tensor(self.quantiser(torch.stack(views, dim=2)))


def _stack_frames(log_mel: Tensor, stack: int) -> Tensor:
    """Concatenate the features of each frame: (batch, stack · frames, mels) -> (batch, frames, stack · mels)."""
    batch, time, mels = log_mel.shape
    return log_mel.reshape(batch, time // stack, stack * mels)


def _statistics(log_mel: Tensor) -> Tensor:
    """Return mean and standard deviation over time: (batch, time, mels) -> (batch, 2 · mels)."""
    return torch.cat([log_mel.mean(dim=1), log_mel.std(dim=1)], dim=-1)


def span_mask(*, batch: int, frames: int, share: float, span: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a random mask of spans that may overlap, (batch, frames), True where masked.

    A frame stays visible when no span starts at it or in the span - 1 positions before it. With the start probability
    p = 1 - (1 - share)^(1 / span) that has probability (1 - p)^span = 1 - share. Starts before frame 0 count, too.

    Example: 3 frames and a span of 2 draw starts at positions -1 to 2. The starts ``0 1 0 0`` have the cumulative
    counts ``0 0 1 1 1``; the counts two apart differ by ``1 1 0``, so that frames 0 and 1 are masked.

    Args:
        batch: Number of rows.
        frames: Number of frames.
        share: Expected share of masked frames.
        span: Frames of a span.
        rng: Random generator.
    """
    start_probability = 1.0 - (1.0 - share) ** (1.0 / span)
    starts = rng.random((batch, frames + span - 1)) < start_probability
    counts = np.cumsum(np.pad(starts.astype(np.int64), ((0, 0), (1, 0))), axis=1)
    return np.asarray(counts[:, span:] - counts[:, :-span] > 0)


def draw_mask(settings: BestRqSettings, *, batch: int, frames: int, rng: np.random.Generator) -> Tensor:
    """Return a mask of `span_mask` with the task's settings and at least a masked frame in every row."""
    mask = span_mask(batch=batch, frames=frames, share=settings.mask_share, span=settings.mask_span, rng=rng)
    mask[:, 0] |= ~mask.any(axis=1)  # a short crop may have no span
    return torch.from_numpy(mask)


def mask_with_noise(values: Tensor, mask: Tensor, *, step: int, offset: int, rng: np.random.Generator) -> Tensor:
    """Replace the inputs of masked frames by noise.

    Source: Chiu et al. 2022, arXiv 2202.01855, section 3.2: normal noise of mean 0 and standard deviation 0.1 in an
    input of standard deviation 1. Differs from the paper: mean and deviation of the noise are relative to the row's
    own, since not every model normalizes its input.

    Example: with a step of 4 and an offset of 2, position i belongs to frame (i + 2) // 4: positions 0 and 1 to frame
    0, positions 2 to 5 to frame 1. Positions that belong to no frame keep their values, and so with an offset of -1
    position 0 does.

    Args:
        values: Inputs of the encoder, (batch, positions) or (batch, positions, width).
        mask: (batch, frames), True where masked.
        step: Positions from one frame to the next.
        offset: Number of positions of frame 0 that lie before position 0; negative where frame 0 starts later.
        rng: Generator of the noise.
    """
    frame = (torch.arange(values.shape[1]) + offset).div(step, rounding_mode="floor")  # (positions,)
    hidden = mask[:, frame.clamp(0, mask.shape[1] - 1)] & (frame >= 0) & (frame < mask.shape[1])  # (batch, positions)
    noise = torch.from_numpy(rng.standard_normal(tuple(values.shape), dtype=np.float32))
    spread, mean = torch.std_mean(values, dim=1, keepdim=True)
    hidden = hidden.view(*hidden.shape, *[1] * (values.ndim - 2))  # (batch, positions) -> (batch, positions[, 1])
    return torch.where(hidden, mean + 0.1 * spread * noise, values)


def loss(logits: Tensor, labels: Tensor, mask: Tensor) -> BestRqLossSums:
    """Return the cross-entropy of the masked and of the unmasked frames.

    Differs from the paper, which ignores unmasked frames: their labels are learned at once, and in a short training an
    encoder that predicts visible frames comes to predict masked ones sooner.

    Args:
        logits: (batch, frames, codebooks, entries).
        labels: (batch, frames, codebooks).
        mask: (batch, frames), True where masked.
    """
    # (batch, frames, codebooks, entries) -> (batch · frames · codebooks, entries)
    flat = functional.cross_entropy(logits.float().flatten(0, 2), labels.flatten(), reduction="none")
    frames = flat.view(labels.shape).mean(dim=-1)  # (batch, frames)
    correct_share = (logits.argmax(dim=-1) == labels).float().mean(dim=-1)  # (batch, frames)
    return BestRqLossSums(masked=frames[mask].sum(), visible=frames[~mask].sum(), correct=correct_share[mask].sum())
