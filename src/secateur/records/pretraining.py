"""Record of a pre-training run (``record.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.records.environment import Environment
from secateur.records.files import OMITTED
from secateur.records.section import Count, Hertz, Number, Record


@dataclass(frozen=True, kw_only=True)
class PretrainRecord(Record):
    """Record of `secateur pretrain`.

    Attributes:
        config: Resolved recipe.
        data: Name of the training data.
        sample_rate: Sampling rate of the audio in hertz.
        parameters: Parameters of the encoder.
        seconds: Duration of the training.
        train: Metrics of the last logged training step.
        dev: Metrics on held-out crops at the last step.
        environment: Versions and machine.
        folder: Run folder; None in the file itself.
    """

    verb: str = "pretrain"
    config: Any = None
    data: str = ""
    sample_rate: Hertz | None = None
    parameters: Count | None = None
    seconds: Number | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    dev: Mapping[str, Any] = field(default_factory=dict)
    environment: Environment = field(default_factory=Environment)
    folder: str | None = field(default=None, metadata=OMITTED)
