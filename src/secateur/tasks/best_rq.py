"""BEST-RQ: predict, under a mask, the labels that a frozen random-projection quantiser gives log-mel frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError

_WINDOW, _HOP, _FFT = 400, 160, 512  # samples, as the front end counts: at 16 kHz 25 ms windows every 10 ms
STRIDE, FIELD = 320, 400  # samples: the encoder's hop and receptive field
_STACK = STRIDE // _HOP  # log-mel frames to one frame of the encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class BestRqSettings:
    """What is predicted and how much of the input is hidden.

    Attributes:
        frame_codebooks: Label frames normalised over their crop: what is said, little of who says it.
        plain_codebooks: Label frames normalised over the corpus: what is said and how it sounds.
        crop_codebooks: Label the crop's average spectrum and its spread, one label for all frames: who and where.
        entries: In each codebook.
        width: Of an entry.
        mask_share: Of the frames, expected.
        mask_span: Frames of the encoder.
        visible_weight: Of the frames that are not hidden, beside 1 for those that are; the paper's is 0.
        seed: Of the quantiser.
    """

    kind: Literal["best_rq"] = "best_rq"
    mels: int = 80
    frame_codebooks: int = 3
    plain_codebooks: int = 3
    crop_codebooks: int = 4
    entries: int = 256
    width: int = 16
    mask_share: float = 0.45
    mask_span: int = 10
    visible_weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        minimums = {"mels": 1, "frame_codebooks": 0, "plain_codebooks": 0, "crop_codebooks": 0}
        minimums |= {"entries": 2, "width": 1, "mask_span": 1, "visible_weight": 0, "seed": 0}
        problems = [
            f"{name}: got {getattr(self, name)}, allowed is {bound} or more."
            for name, bound in minimums.items()
            if not bound <= getattr(self, name) < math.inf
        ]
        if not 0 < self.mask_share < 1:
            problems.append(f"mask_share: got {self.mask_share}, allowed is above 0 and below 1.")
        if not problems and not self.codebooks:
            problems.append(
                "frame_codebooks, plain_codebooks, crop_codebooks: got 0 of each, so that there are no labels."
            )
        if problems:
            raise ConfigError(" ".join(problems))

    @property
    def codebooks(self) -> int:
        """Labels of one frame."""
        return self.frame_codebooks + self.plain_codebooks + self.crop_codebooks


@dataclass(frozen=True, slots=True)
class BestRqLossSums:
    """Sums over the frames of a batch, so that they can be divided by global counts; averages over codebooks."""

    masked: Tensor  # cross-entropy in nats of the frames under the mask
    visible: Tensor  # and of the others
    correct: Tensor  # frames under the mask guessed right


def frame_count(samples: int) -> int:
    """Frames that a wav2vec 2.0 front end makes of so many samples."""
    return max(0, (samples - FIELD) // STRIDE + 1)


class LogMel(nn.Module):
    """Log-mel filterbank energies every 160 samples, placed so that pairs of them sit under the encoder's frames."""

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
        """(batch, samples) → (batch, 2 · frames, mels), where frames is the encoder's frame count.

        The encoder's frame t sees samples 320 t … 320 t + 399; its two windows start at 320 t − 80 and
        320 t + 80, so that together they are centred where it is.
        """
        values = functional.pad(values.float(), (_HOP // 2, _HOP // 2))
        frames = values.unfold(-1, _WINDOW, _HOP)  # (batch, windows, window)
        count = _STACK * frame_count(values.shape[-1] - _HOP)
        spectrum = torch.fft.rfft(frames[:, :count] * self.window, n=_FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        with torch.autocast(values.device.type, enabled=False):  # bf16 would round the labels
            return torch.log(power @ self.filters.T + 1e-5)


class FrameWindows(nn.Module):
    """Features that an encoder is given, a window of them to each of its frames and centred where the frame is.

    Like `LogMel`, but of what the encoder hears itself, whatever made it, as in the paper.
    """

    def __init__(self, step: int, count_frames: Callable[[int], int]) -> None:
        """
        Args:
            step: Positions of features from one frame to the next.
            frames: How many frames so many positions give.
        """
        super().__init__()
        self.step, self.count_frames = step, count_frames

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """(batch, positions, width) → (batch, step · frames, width); at the ends the last position is repeated."""
        positions = values.shape[1]
        window_positions = torch.arange(self.step * self.count_frames(positions), device=values.device) - self.step // 2
        return values[:, window_positions.clamp(0, positions - 1)].float()


class RandomProjectionQuantizer(nn.Module):
    """A frozen random projection and frozen random codebooks: vectors in, one label per codebook out.

    Source: Chiu et al. 2022, arXiv 2202.01855, section 3.1: label = argmin over i of
    ‖norm(c_i) − norm(A x)‖ with A Xavier-uniform and c standard normal.
    Differs from the paper: several codebooks, each with a projection of its own (as in Google's USM,
    arXiv 2303.01037), because one codebook learns too slowly in a model of two million parameters.
    """

    projection: Tensor
    entries: Tensor

    def __init__(self, features: int, settings: BestRqSettings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(settings.seed)
        bound = math.sqrt(6.0 / (features + settings.width))
        projection = torch.rand(settings.codebooks, features, settings.width, generator=generator)
        entries = torch.randn(settings.codebooks, settings.width, settings.entries, generator=generator)
        self.register_buffer("projection", (2.0 * projection - 1.0) * bound)
        self.register_buffer("entries", functional.normalize(entries, dim=1))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """(batch, frames, codebooks, features), each codebook's own view → labels (batch, frames, codebooks), int64.

        On the unit sphere the nearest entry is the one with the largest inner product, and the length of
        the projected vector does not change which one that is.
        """
        with torch.autocast(features.device.type, enabled=False):
            projected = torch.einsum("btcf,cfw->btcw", features.float(), self.projection)
            return torch.einsum("btcw,cwe->btce", projected, self.entries).argmax(dim=-1)


class RandomProjectionLabeler(nn.Module):
    """From clean speech to the labels of every frame.

    Source: Chiu et al. 2022, arXiv 2202.01855. Differs from the paper: besides frames normalised over their crop,
    codebooks may look at frames normalised over the corpus and at the statistics of the whole crop. Without
    such labels nothing asks the encoder to keep what tells speakers apart.
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
            task: What is predicted.
            windows: Of the features that the encoder hears; None where it hears samples, whose log-mel is taken here.
            width: Of those features.
            sample_rate: Hertz, of the samples.

        Raises:
            ConfigError: Codebooks look at the whole crop, which only those of samples do.
        """
        super().__init__()
        if windows is not None and settings.crop_codebooks:
            raise ConfigError(
                f"crop_codebooks: got {settings.crop_codebooks}, allowed is 0 for an encoder that hears features."
            )
        self.settings = settings
        self.log_mel: nn.Module = LogMel(settings.mels, sample_rate) if windows is None else windows
        self.stack = _STACK if windows is None else windows.step
        mels = settings.mels if width is None else width
        self.quantiser = RandomProjectionQuantizer(self.stack * mels, settings)
        for name, size in (("mean", mels), ("crop_mean", 2 * mels)):
            self.register_buffer(name, torch.zeros(size))
            self.register_buffer(name.replace("mean", "spread"), torch.ones(size))

    def fit_statistics(self, crops: Iterable[Tensor]) -> None:
        """Takes the corpus statistics from crops, each (batch, samples) at unit variance."""
        frames = [self.log_mel(values) for values in crops]
        flat = torch.cat([frame.flatten(0, 1) for frame in frames])  # (all frames, mels)
        crop_statistics = torch.cat([_statistics(frame) for frame in frames])  # (all crops, 2 · mels)
        self.mean, self.spread = flat.mean(dim=0), flat.std(dim=0) + 1e-3
        correction = min(1, len(crop_statistics) - 1)  # one crop has no spread
        self.crop_mean, self.crop_spread = (
            crop_statistics.mean(dim=0),
            crop_statistics.std(dim=0, correction=correction) + 1e-3,
        )

    @torch.no_grad()
    def normalized_log_mel(self, values: Tensor) -> Tensor:
        """(batch, samples) → log-mel energies in units of the corpus's spread, (batch, frames, 2 · mels)."""
        return _stack_frames((self.log_mel(values) - self.mean) / self.spread, self.stack)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """(batch, samples) at unit variance, or features → labels (batch, frames, codebooks), int64."""
        log_mel = self.log_mel(values)
        crop_normalized = (log_mel - log_mel.mean(dim=1, keepdim=True)) / (log_mel.std(dim=1, keepdim=True) + 1e-3)
        corpus_normalized = (log_mel - self.mean) / self.spread
        frames = log_mel.shape[1] // self.stack
        crop = ((_statistics(log_mel) - self.crop_mean) / self.crop_spread)[:, None].expand(-1, frames, -1)
        settings = self.settings
        views = [_stack_frames(crop_normalized, self.stack)] * settings.frame_codebooks
        views += [_stack_frames(corpus_normalized, self.stack)] * settings.plain_codebooks
        views += [crop] * settings.crop_codebooks
        return torch.as_tensor(self.quantiser(torch.stack(views, dim=2)))


def _stack_frames(log_mel: Tensor, stack: int) -> Tensor:
    """(batch, stack · frames, mels) → (batch, frames, stack · mels)."""
    batch, time, mels = log_mel.shape
    return log_mel.reshape(batch, time // stack, stack * mels)


def _statistics(log_mel: Tensor) -> Tensor:
    """(batch, time, mels) → mean and spread over time side by side: (batch, 2 · mels)."""
    return torch.cat([log_mel.mean(dim=1), log_mel.std(dim=1)], dim=-1)


def span_mask(*, batch: int, frames: int, share: float, span: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(batch, frames) masks of spans of `span` frames that may overlap; `share` is the expected masked share.

    Every frame starts a span with probability 1 − (1 − share)^(1/span), counting starts before the first frame.
    """
    start = 1.0 - (1.0 - share) ** (1.0 / span)
    starts = rng.random((batch, frames + span - 1)) < start
    counts = np.cumsum(np.pad(starts.astype(np.int64), ((0, 0), (1, 0))), axis=1)
    return np.asarray(counts[:, span:] - counts[:, :-span] > 0)


def draw_mask(settings: BestRqSettings, *, batch: int, frames: int, rng: np.random.Generator) -> Tensor:
    """`span_mask` as a task asks for it, in which every row hides something."""
    mask = span_mask(batch=batch, frames=frames, share=settings.mask_share, span=settings.mask_span, rng=rng)
    mask[:, 0] |= ~mask.any(axis=1)  # a short crop may have drawn no span
    return torch.from_numpy(mask)


def mask_with_noise(values: Tensor, mask: Tensor, *, step: int, offset: int, rng: np.random.Generator) -> Tensor:
    """What an encoder hears, with noise in place of the frames under a mask; (batch, positions) or (…, width).

    Source: Chiu et al. 2022, arXiv 2202.01855, section 3.2: normal noise of mean 0 and spread 0.1 in the input, whose
    own spread is 1. Differs from the paper: in units of the spread of what is heard, since not every model normalises.

    Args:
        values: What is heard.
        mask: (batch, frames), True where hidden.
        step: Positions from one frame to the next.
        offset: Positions of frame 0 that lie before position 0.
    """
    frame = (torch.arange(values.shape[1]) + offset).div(step, rounding_mode="floor")
    hidden = mask[:, frame.clamp(0, mask.shape[1] - 1)] & (frame >= 0) & (frame < mask.shape[1])
    noise = torch.from_numpy(rng.standard_normal(tuple(values.shape), dtype=np.float32))
    spread, mean = torch.std_mean(values, dim=1, keepdim=True)
    return torch.where(hidden.view(*hidden.shape, *[1] * (values.ndim - 2)), mean + 0.1 * spread * noise, values)


def loss(logits: Tensor, labels: Tensor, mask: Tensor) -> BestRqLossSums:
    """Cross-entropy of the frames under the mask and of the others.

    Differs from the paper, which leaves the others out: telling what is heard is learned at once, and in a short
    training what is under a mask is guessed soon only by an encoder that can tell what is not.

    Args:
        logits: (batch, frames, codebooks, entries).
        labels: (batch, frames, codebooks).
        mask: (batch, frames), True where hidden.
    """
    flat = functional.cross_entropy(logits.float().flatten(0, 2), labels.flatten(), reduction="none")
    frames = flat.view(labels.shape).mean(dim=-1)  # (batch, frames)
    correct_share = (logits.argmax(dim=-1) == labels).float().mean(dim=-1)
    return BestRqLossSums(masked=frames[mask].sum(), visible=frames[~mask].sum(), correct=correct_share[mask].sum())
