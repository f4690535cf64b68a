"""Where the frames of an encoder lie in what it hears: what is hidden there, and what the labels of them are of."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from secateur.data.input_features import VARIANCE_FLOOR
from secateur.errors import ConfigError
from secateur.structure import Structure
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings, FrameWindows, RandomProjectionLabeler

_FIRST_FRAME_OFFSET = (
    -40
)  # samples of frame 0 before the first: it is heard from 0 to 399, and 320 of these are its own


class NoiseMask:
    """BEST-RQ as in the paper, by noise in what is heard, for an encoder of any supported family and shape.

    Attributes:
        step: Positions of what is heard from one frame to the next.
    """

    def __init__(self, structure: Structure) -> None:
        """
        Args:
            structure: Of the encoder, dense or cut.

        Raises:
            ConfigError: It hears samples, and not in windows of 400 every 320, which labels of samples are made for.
        """
        features = structure.features
        self.width = None if features is None else features.width
        self._stages = structure.stages[0 if features is None else features.stages :]
        self.step = prod(stage.stride for stage in self._stages)
        step_and_field = self.step, structure.min_samples
        if features is None and step_and_field != (best_rq.STRIDE, best_rq.FIELD):
            raise ConfigError(
                f"conv_stride: got a front end with {step_and_field[0]} samples from frame to frame, each heard in {step_and_field[1]}; "
                f"BEST-RQ takes samples in windows of {best_rq.FIELD} every {best_rq.STRIDE} only."
            )

    def frames(self, positions: int) -> int:
        """Frames that so many positions of what is heard give."""
        for stage in self._stages:
            positions = stage.output_length(positions)
        return positions

    def add_noise(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Noise in place of the hidden frames.

        Args:
            heard: (batch, samples), or features.
            mask: (batch, frames), True where hidden.
            rng: Of the noise.
        """
        offset = _FIRST_FRAME_OFFSET if self.width is None else self.step // 2
        return best_rq.mask_with_noise(inputs, mask, step=self.step, offset=offset, rng=rng)

    def label_inputs(self, inputs: Tensor) -> Tensor:
        """What labels are of: samples at unit variance, also where the encoder hears them as they are; features."""
        if self.width is not None:
            return inputs
        centered = inputs - inputs.mean(dim=1, keepdim=True)
        return centered * torch.rsqrt(centered.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR)

    def make_labeler(self, settings: BestRqSettings, *, sample_rate: int) -> RandomProjectionLabeler:
        """Return what labels the features that are heard, or the log-mel of samples at a rate in hertz.

        Raises:
            ConfigError: Codebooks look at the whole crop, which only those of samples do.
        """
        windows = None if self.width is None else FrameWindows(self.step, self.frames)
        return RandomProjectionLabeler(settings, windows, width=self.width, sample_rate=sample_rate)
