"""Record of measured time and memory (``bench.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.bounds import NonNegativeFinite, PositiveFinite
from secateur.records.environment import Environment
from secateur.records.files import OMITTED
from secateur.records.section import Count, Hertz, Record, Section


@dataclass(frozen=True, kw_only=True)
class BenchRow(Section):
    """Measurements of a model in a form and case.

    Attributes:
        model: Folder, config file or hub id.
        name: Shortest end of `model` that no other model of the record has.
        form: ``as it is`` or ``for_inference``.
        weights: ``loaded`` or ``random``.
        seconds: Audio length.
        batch: Batch size.
        dtype: ``fp32`` or ``bf16``.
        threads: Threads of the processor.
        sample_rate: Sampling rate of the audio in hertz.
        median_ms: Median time of a forward pass.
        low_ms: Minimum time.
        high_ms: Maximum time.
        repeats: Number of timed forward passes.
        real_time_factor: Median time over the length of one utterance.
        throughput: Seconds of audio per second of time, over the whole batch.
        ratio: Median time of the first model over this model's.
        blocks_ms: Median time in each kind of block.
        peak_mib: Peak memory; None where it was not measured.
    """

    model: str = ""
    name: str
    form: str = ""
    weights: str = ""
    seconds: PositiveFinite  # of an utterance
    batch: Count  # utterances per forward pass
    dtype: str = ""
    threads: Count | None = None
    sample_rate: Hertz | None = None
    median_ms: PositiveFinite
    low_ms: PositiveFinite
    high_ms: PositiveFinite
    repeats: Count | None = None
    real_time_factor: PositiveFinite | None = None  # seconds of computation per second of audio
    throughput: PositiveFinite | None = None  # seconds of audio per second of computation
    ratio: PositiveFinite | None = None  # above 1: faster than the first model
    # {"attention": 12.3, "feed-forward": 20.1}
    blocks_ms: Mapping[str, NonNegativeFinite] = field(default_factory=dict)
    peak_mib: NonNegativeFinite | None = field(default=None, metadata=OMITTED)  # 2**20 bytes

    @property
    def has_random_weights(self) -> bool:
        """True if the model was built from a config, without a checkpoint."""
        return self.weights == "random"


@dataclass(frozen=True, kw_only=True)
class BenchRecord(Record):
    """Record of `secateur bench`.

    Attributes:
        rows: Measurements, one row for each model, form and case.
        environment: Versions and machine.
        config: Fields of the `BenchConfig`.
    """

    kind: str = "bench"
    rows: tuple[BenchRow, ...] = ()
    environment: Environment = field(default_factory=Environment)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def repeats(self) -> int | None:
        """Number of timed forward passes of each model in each case."""
        repeats: int | None = self.config.get("repeats")
        return repeats
