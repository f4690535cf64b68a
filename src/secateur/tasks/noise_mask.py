"""Mapping between the frames and the input positions of an encoder, for BEST-RQ's masks and labels."""

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

# Frame 0 spans samples 0 to 399. The noise covers the 320 in the middle, 40 to 359, which touch the 360 to 679 of
# frame 1; so 40 samples come before frame 0, an offset of -40.
_FIRST_FRAME_OFFSET = -40


class NoiseMask:
    """Masking of encoder inputs by noise, as in the BEST-RQ paper, for an encoder of any supported family and shape.

    Example: an encoder of log-mel features with two convolutions of stride 2 has ``step`` 4. Frame t covers the
    positions 4 t - 2 to 4 t + 1, which are replaced by noise when the frame is masked, and which are also labeled.

    Attributes:
        width: Dimension of the input features; None for samples.
        step: Input positions from one frame to the next.
    """

    def __init__(self, structure: Structure) -> None:
        """
        Args:
            structure: Structure of the encoder, dense or cut.

        Raises:
            ConfigError: The encoder takes samples in other windows than 400 every 320, for which labels exist.
        """
        features = structure.features
        self.width = None if features is None else features.width
        # The stages behind the feature extractor, which computes features outside the model.
        self._stages = structure.stages[0 if features is None else features.stages :]
        self.step = prod(stage.stride for stage in self._stages)  # strides 5, 2, 2, 2, 2, 2, 2: 320
        field = structure.min_samples
        if features is None and (self.step, field) != (best_rq.STRIDE, best_rq.FIELD):
            raise ConfigError(
                f"conv_stride: got a front end with windows of {field} samples every {self.step}, expected windows of "
                f"{best_rq.FIELD} every {best_rq.STRIDE}, which BEST-RQ labels."
            )

    def frames(self, positions: int) -> int:
        """Return the number of frames that a number of input positions gives."""
        for stage in self._stages:
            positions = stage.output_length(positions)
        return positions

    def add_noise(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the inputs with noise in place of the masked frames; see `best_rq.mask_with_noise`.

        Args:
            inputs: (batch, samples) or (batch, positions, width).
            mask: (batch, frames), True where masked.
            rng: Generator of the noise.
        """
        # Features: frame 0 is centered on position 0, so that half of its positions would lie before.
        offset = _FIRST_FRAME_OFFSET if self.width is None else self.step // 2
        return best_rq.mask_with_noise(inputs, mask, step=self.step, offset=offset, rng=rng)

    def label_inputs(self, inputs: Tensor) -> Tensor:
        """Return the values to label: unchanged features, or samples with mean 0 and variance 1 for every encoder."""
        if self.width is not None:
            return inputs
        # As `Waveform` normalizes, so that encoders with and without normalized samples have the same labels.
        centered = inputs - inputs.mean(dim=1, keepdim=True)
        return centered * torch.rsqrt(centered.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR)

    def make_labeler(self, settings: BestRqSettings, *, sample_rate: int) -> RandomProjectionLabeler:
        """Return a labeler of the input features, or of the log-mel energies of samples at a rate in hertz.

        Raises:
            ConfigError: The settings have codebooks for whole crops, but the encoder takes features.
        """
        windows = None if self.width is None else FrameWindows(self.step, self.frames)
        return RandomProjectionLabeler(settings, windows, width=self.width, sample_rate=sample_rate)
