"""A corpus: what is said in which recording, what was left out of it and why, and how to hear it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, did_you_mean

#: Hertz, where a model's files do not name another rate; and what `samples` of a manifest counts.
SAMPLE_RATE = 16_000


def escape_surrogates(text: str) -> str:
    """Return text in which what is no UTF-8, as the names of files may hold, is written out: `\\udcff` for a byte 255.

    Such names can be opened, but neither printed nor written to a record.
    """
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One stretch of speech: a file, or a segment of one.

    Attributes:
        id: Unique within its corpus.
        path: The audio file; for synthetic speech a name of its own.
        samples: Length at the rate of its corpus, whatever the file's own rate.
        text: What is said.
        speaker: Who says it.
        label: A class, such as a keyword or an intent.
        tagged: The text with its entities in SLURP's notation, as `wake me at [time : five am]`.
        split: The part of the corpus it belongs to.
        offset: Where in the file it starts, in seconds.
        duration: How long it is in seconds; None reaches to the end of the file.
        words: First sample, sample after the last (both at the rate of its corpus) and text of each word, where known.
        tagged: The text with its entities in brackets, such as ``wake me up at [time : five am]``.
    """

    id: str
    path: str
    samples: int
    text: str | None = None
    speaker: str | None = None
    label: str | None = None
    tagged: str | None = None
    split: str | None = None
    offset: float = 0.0
    duration: float | None = None
    words: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Skip:
    """A file or segment that was left out, as the manifest names it, and the reason in plain words."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", escape_surrogates(self.path))
        object.__setattr__(self, "reason", escape_surrogates(self.reason))


@dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order and the function that reads one.

    Attributes:
        name: A short name for logs and records.
        utterances: In the order of the manifest, or sorted by path.
        skipped: What was left out while opening.
        read: The audio of an utterance: (samples,) float32, mono, at `sample_rate`, not to be written to.
        sample_rate: Hertz, the rate of the model that the corpus was opened for.
    """

    name: str
    utterances: tuple[Utterance, ...]
    skipped: tuple[Skip, ...]
    read: Callable[[Utterance], NDArray[np.float32]]
    sample_rate: int = SAMPLE_RATE

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def seconds(self) -> float:
        """Length of all utterances together."""
        return sum(utterance.samples for utterance in self.utterances) / self.sample_rate

    def audio(self, index: int) -> NDArray[np.float32]:
        """Return the audio of utterance `index`: (samples,) float32, mono, at `sample_rate`."""
        return self.read(self.utterances[index])

    def split(self, name: str) -> Corpus:
        """The utterances whose `split` is `name`.

        Raises:
            DataError: No utterance has that split.
        """
        split_corpus = self.select(lambda utterance: utterance.split == name)
        if not split_corpus.utterances:
            names = sorted({utterance.split for utterance in self.utterances if utterance.split is not None})
            raise DataError(
                f"Corpus {self.name!r} has no split {name!r}; it has {', '.join(names) or 'no splits'}."
                + did_you_mean(name, names)
            )
        return replace(split_corpus, name=f"{self.name}/{name}")

    def select(self, predicate: Callable[[Utterance], bool]) -> Corpus:
        """The utterances for which `predicate` holds, in the same order; possibly none."""
        return replace(self, utterances=tuple(filter(predicate, self.utterances)))
