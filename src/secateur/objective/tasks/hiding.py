"""Where the frames of an encoder lie in what it hears: what is hidden there, and what the labels of them are of."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from secateur.data.hearing import VARIANCE_FLOOR
from secateur.errors import ConfigError
from secateur.objective.tasks import best_rq
from secateur.objective.tasks.best_rq import BestRqTask, Labeller, Windows
from secateur.structure import Structure

_BEFORE = -40  # samples of frame 0 before the first: it is heard from 0 to 399, and 320 of these are its own


class Hiding:
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
        found = self.step, structure.shortest
        if features is None and found != (best_rq.STRIDE, best_rq.FIELD):
            raise ConfigError(
                f"conv_stride: got a front end with {found[0]} samples from frame to frame, each heard in {found[1]}; "
                f"BEST-RQ takes samples in windows of {best_rq.FIELD} every {best_rq.STRIDE} only."
            )

    def frames(self, positions: int) -> int:
        """Frames that so many positions of what is heard give."""
        for stage in self._stages:
            positions = stage.count(positions)
        return positions

    def hide(self, heard: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Noise in place of the hidden frames.

        Args:
            heard: (batch, samples), or features.
            mask: (batch, frames), True where hidden.
            rng: Of the noise.
        """
        offset = _BEFORE if self.width is None else self.step // 2
        return best_rq.noise_over(heard, mask, step=self.step, offset=offset, rng=rng)

    def labelled(self, heard: Tensor) -> Tensor:
        """What labels are of: samples at unit variance, also where the encoder hears them as they are; features."""
        if self.width is not None:
            return heard
        centred = heard - heard.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR)

    def labeller(self, task: BestRqTask, *, sample_rate: int) -> Labeller:
        """Return what labels the features that are heard, or the log-mel of samples at a rate in hertz.

        Raises:
            ConfigError: Codebooks look at the whole crop, which only those of samples do.
        """
        windows = None if self.width is None else Windows(self.step, self.frames)
        return Labeller(task, windows, width=self.width, sample_rate=sample_rate)
