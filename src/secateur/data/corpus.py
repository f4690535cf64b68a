"""The corpus: utterances with transcripts and labels, skipped files, and a function that reads the audio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, did_you_mean

#: Hertz. The sampling rate of models whose files name no other, and of the number `samples` in a manifest.
SAMPLE_RATE = 16_000


def escape_surrogates(text: str) -> str:
    """Return `text` with bytes of a file name that are not UTF-8 as escapes: a byte 255 becomes `\\udcff`.

    Files with such names can be opened, but the names can be neither printed nor written to a record.
    """
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """An audio file or a segment of a file, with annotations.

    Attributes:
        id: Unique within the corpus.
        path: The audio file, or the name of a row whose audio is inside a dataset.
        samples: Length at the sampling rate of the corpus, whatever the rate of the file.
        text: The transcript.
        speaker: The speaker's label.
        label: A class, such as a keyword or an intent.
        tagged: The text with entities in SLURP's notation, as in `wake me up at [time : five am]`.
        split: The part of the corpus.
        offset: Start within the file, in seconds.
        duration: Length in seconds; None reaches to the end of the file.
        words: Start, end (exclusive) and text of each word, where known; in samples at the rate of the corpus.
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
    """A skipped file or segment: the path as the manifest names the file, and the reason in words."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", escape_surrogates(self.path))
        object.__setattr__(self, "reason", escape_surrogates(self.reason))


@dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order and a function that reads the audio.

    Attributes:
        name: A short name for logs and records.
        utterances: In the order of the manifest, or sorted by path.
        skipped: Files and segments that were left out on opening.
        read: Returns the audio of an utterance: (samples,) float32, mono, at `sample_rate`, read-only.
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
        """Total length of the utterances in seconds."""
        return sum(utterance.samples for utterance in self.utterances) / self.sample_rate

    def audio(self, index: int) -> NDArray[np.float32]:
        """Return the audio of utterance `index`: (samples,) float32, mono, at `sample_rate`."""
        return self.read(self.utterances[index])

    def split(self, name: str) -> Corpus:
        """Return the corpus of the utterances with the split `name`.

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
        """Return the corpus of the utterances that satisfy `predicate`, in the same order; may be empty."""
        return replace(self, utterances=tuple(filter(predicate, self.utterances)))
