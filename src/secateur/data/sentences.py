"""Random word sequences for synthetic speech, drawn from the word lists in `sentences.txt`."""

from __future__ import annotations

from importlib.resources import files

import numpy as np


def _read_word_lists() -> dict[str, tuple[str, ...]]:
    """Return the word lists by name; in the file, `[name]` starts a list and `#` a comment."""
    word_lists: dict[str, tuple[str, ...]] = {}
    name = ""
    for line in files("secateur.data").joinpath("sentences.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            word_lists[name] = ()
        elif line and not line.startswith("#"):
            word_lists[name] += tuple(line.split())
    return word_lists


_WORD_LISTS = _read_word_lists()
DIGITS = _WORD_LISTS["digits"]
COMMANDS = _WORD_LISTS["commands"]
COMMON = _WORD_LISTS["common"]
WORDS = DIGITS + COMMANDS + COMMON

# Share of the drawn words by list. Keyword probes classify digits and commands, so these 45 words get 30 %.
_SHARES: tuple[tuple[float, tuple[str, ...]], ...] = ((0.15, DIGITS), (0.15, COMMANDS), (0.70, COMMON))


def sentence(rng: np.random.Generator, *, words: int) -> str:
    """Return `words` words drawn independently, so that no word can be predicted from the words around."""
    shares = np.array([share for share, _ in _SHARES])
    # The lists of all words are drawn first, then the words: another order would change every corpus of a seed.
    list_indices = rng.choice(len(_SHARES), size=words, p=shares)
    drawn_words = []
    for list_index in list_indices:
        word_list = _SHARES[list_index][1]
        drawn_words.append(word_list[int(rng.integers(len(word_list)))])
    return " ".join(drawn_words)
