"""Record of a model's scores on a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.records.environment import Environment
from secateur.records.files import OMITTED
from secateur.records.run import CorpusRecord, SkippedFile
from secateur.records.score import ScoreInfo
from secateur.records.section import Count, Number, Record


@dataclass(frozen=True, kw_only=True)
class EvaluateRecord(Record):
    """Record of `secateur evaluate`.

    Attributes:
        model: Model folder or hub id.
        parameters: Parameters of the encoder.
        environment: Versions and machine.
        data: Utterances that were scored.
        skipped: Files that were left out.
        notes: Warnings about task and data.
        streaming: Whether a streaming transducer processed the audio in chunks; None for all other models.
        lookahead: Frames of lookahead of a streaming transducer.
        headline: Name of the primary metric.
        score_info: Presentation of each score, by name.
        scores: Scores by name.
    """

    kind: str = "evaluate"
    model: str = ""
    parameters: Count | None = None
    environment: Environment = field(default_factory=Environment)
    data: CorpusRecord = field(default_factory=CorpusRecord)
    skipped: tuple[SkippedFile, ...] = ()
    notes: tuple[str, ...] = ()
    streaming: bool | None = field(default=None, metadata=OMITTED)
    lookahead: int | None = field(default=None, metadata=OMITTED)
    headline: str = ""
    score_info: Mapping[str, ScoreInfo] = field(default_factory=dict)
    scores: Mapping[str, Number] = field(default_factory=dict)
