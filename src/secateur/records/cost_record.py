"""Parameters, MACs and predicted time of a model, in total and by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secateur.bounds import NonNegativeFinite
from secateur.records.block_part import part_of_path
from secateur.records.files import OMITTED
from secateur.records.section import Count, Hertz, Number, Record, Section


@dataclass(frozen=True, kw_only=True)
class CostRecord(Section):
    """Cost of a block.

    Attributes:
        parameters: Parameters of the block.
        macs: Multiply-accumulates of the block.
        latency: Predicted milliseconds; None without a table of measured times.
        part: Part of the encoder that the block belongs to, such as ``attention``.
        layer: Index of the encoder layer, or of the convolution in the front end; None outside of both.
    """

    parameters: Count = 0
    macs: Count = 0  # multiply-accumulates, not FLOPs
    latency: NonNegativeFinite | None = field(default=None, metadata=OMITTED)
    part: str | None = field(default=None, metadata=OMITTED)
    layer: Count | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, kw_only=True)
class Breakdown(Section):
    """Cost of a model, in total and by block.

    Attributes:
        parameters: Parameters of the base model, without a task head.
        head: Parameters of a transducer's head; 0 without one. No block and no scope contains them.
        macs: Multiply-accumulates at `samples` samples.
        latency: Predicted milliseconds; None without a table of measured times.
        samples: Audio length that the MACs are for.
        frames: Output frames at that length.
        blocks: Cost by module path of the block, from the input to the output of the model.
        scopes: Parameters and MACs by scope.
        convention: Sentence that says which operations the MACs count.
    """

    parameters: Count
    head: Count
    macs: Count
    latency: Number | None = None  # milliseconds
    samples: Count  # of a single utterance
    frames: Count  # 20 ms of audio each in wav2vec2
    blocks: Mapping[str, CostRecord]  # {"encoder.layers.0.attention": …}
    scopes: Mapping[str, Mapping[str, Count]]
    convention: str


@dataclass(frozen=True, kw_only=True)
class BlockCosts(Section):
    """Cost by block, before and after the cut."""

    before: Mapping[str, CostRecord]  # by module path, as in `Breakdown.blocks`
    after: Mapping[str, CostRecord]

    def __post_init__(self) -> None:
        """Fill in parts and layers, which old records lack."""
        for name in ("before", "after"):
            blocks = {path: _with_part(path, costs) for path, costs in getattr(self, name).items()}
            object.__setattr__(self, name, blocks)


def _with_part(path: str, costs: CostRecord) -> CostRecord:
    if costs.part is not None:
        return costs
    part, layer = part_of_path(path)
    return replace(costs, part=part, layer=layer)


@dataclass(frozen=True, kw_only=True)
class _ProfileHeader(Record):
    kind: str = "profile"
    model_type: str = ""
    sample_rate: Hertz | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileRecord(Breakdown, _ProfileHeader):  # fields of the last base come first in the JSON
    """Record of `secateur profile`: the cost of a model."""

    @property
    def seconds(self) -> float:
        """Seconds of audio that the MACs are for."""
        assert self.sample_rate is not None
        return self.samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class LatencyRecord(Section):
    """Predicted time of the dense and the pruned model, and the table of measured times behind the prediction."""

    table: str = ""
    conditions: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    agreement: Mapping[str, object] = field(default_factory=dict)
    dense_ms: Number | None = None
    kept_ms: Number | None = None
