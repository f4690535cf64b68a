"""The tokens that a CTC head or a transducer writes, read and written by a Hugging Face tokenizer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers.utils.hub import cached_file

from secateur.errors import ConfigError

Case = Literal["auto", "keep", "upper", "lower"]

BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
_PROCESSOR = "Wav2Vec2Processor"  # of every family here; AutoProcessor finds it by this entry
_FILES = ("vocab.json", "tokenizer.json")  # either makes a tokenizer; its config alone does not
_STALE = (*_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Vocabulary:
    """A tokenizer, the case of its letters, and which characters it can write.

    Attributes:
        tokenizer: The library's.
        case: ``upper``, ``lower`` or ``keep``: how texts are written before they are encoded.
        blank: Number of the blank.
    """

    def __init__(self, tokenizer: Any, *, case: Case = "auto", blank: int | None = None) -> None:
        """
        Args:
            tokenizer: A Hugging Face tokenizer.
            case: As the vocabulary writes letters, or as said.
            blank: Number of the blank; None: the tokenizer's padding token.

        Raises:
            ConfigError: The tokenizer has no padding token.
        """
        if tokenizer.pad_token_id is None:
            raise ConfigError("The tokenizer has no padding token, which a new head and CTC need as their blank.")
        self.tokenizer = tokenizer
        self.case = _case_of(tokenizer) if case == "auto" else case
        self.blank: int = tokenizer.pad_token_id if blank is None else blank
        self._knows = lru_cache(maxsize=None)(lambda character: self._written(character))

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def tokens(self) -> dict[str, int]:
        """Numbers by token."""
        return dict(self.tokenizer.get_vocab())

    def fits(self, outputs: int) -> bool:
        """Whether a head with this many outputs may be this vocabulary's.

        Some heads were made without the sentence marks that the library adds behind a vocabulary; no text needs them.
        """
        return outputs in (len(self.tokenizer), self.tokenizer.vocab_size)

    def clean(self, text: str) -> tuple[str, str]:
        """The text as it can be written, and the characters that had to be dropped, in their order.

        Letters take the vocabulary's case, every run of white space becomes one space.
        """
        folded = " ".join(fold(text, self.case).split())
        if self._written(folded):
            return folded, ""
        unknown = "".join(character for character in folded if not (character.isspace() or self._knows(character)))
        kept = "".join(character for character in folded if character.isspace() or self._knows(character))
        return " ".join(kept.split()), unknown

    def encode(self, text: str) -> tuple[int, ...]:
        """Numbers of the text's tokens; None among them, or the unknown token, for what cannot be written."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens without blanks, with one space where the delimiter stood."""
        collapses = isinstance(self.tokenizer, transformers.Wav2Vec2CTCTokenizer | transformers.ParakeetTokenizer)
        # These classes collapse repeats by themselves, but here they are meant: CTC's were collapsed before.
        how = {"group_tokens": False} if collapses else {}
        return " ".join(str(self.tokenizer.decode(list(tokens), **how)).split())

    def writable(self, tokens: Sequence[int | None]) -> bool:
        """Whether tokens, as `encode` gives them, are all known, and none the blank."""
        return not {None, self.tokenizer.unk_token_id, self.blank}.intersection(tokens)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, in place of any that lie there."""
        for name in _STALE:
            (folder / name).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def _written(self, text: str) -> bool:
        return self.writable(self.encode(text))


def fold(text: str, case: Case) -> str:
    """The text in a case; as it is for ``auto`` and ``keep``."""
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


def characters(texts: Iterable[str], case: Case) -> list[str]:
    """Every character of the texts in a case, sorted, without white space and the word delimiter."""
    found = {character for text in texts for character in fold(text, case)}
    return sorted(character for character in found if not character.isspace() and character != DELIMITER)


def spell(signs: Sequence[str], *, extra: Sequence[str] = ()) -> Any:
    """A new tokenizer: blank, unknown, word delimiter, characters, then tokens of several characters.

    Args:
        signs: Characters, in the order of their numbers.
        extra: Longer tokens, each kept whole wherever it stands in a text.
    """
    tokens = [BLANK, UNKNOWN, DELIMITER, *signs, *extra]
    with tempfile.TemporaryDirectory() as folder:  # the library's class takes a file
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(
            str(path),
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN,
            pad_token=BLANK,
            word_delimiter_token=DELIMITER,
            processor_class=_PROCESSOR,
        )


def has_tokenizer(source: str | Path) -> bool:
    """Whether a folder, or a model on the hub, holds a tokenizer.

    Raises:
        ConfigError: The hub cannot be asked. Taking that for a no would make the vocabulary depend on the network.
    """
    try:
        return any(cached_file(str(source), name, _raise_exceptions_for_missing_entries=False) for name in _FILES)
    except OSError as error:
        raise ConfigError(
            f"Whether {str(source)!r} has a tokenizer cannot be told ({_first_line(error)}); name a folder, or "
            "download the model first."
        ) from error


def load(source: str | Path) -> Any:
    """The tokenizer of a folder or hub id; code that comes with it is never run.

    Raises:
        ConfigError: There is none, or it cannot be loaded.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(source), processor_class=_PROCESSOR, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ConfigError(
            f"No tokenizer can be loaded from {str(source)!r} ({_first_line(error)}); name a folder or hub id "
            "with tokenizer files, or 'characters'."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _case_of(tokenizer: Any) -> Literal["keep", "upper", "lower"]:
    """The case of a vocabulary's letters: of its single characters, or of all tokens when no character is a letter."""
    tokens = [token for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens]
    single = [token for token in tokens if len(token) == 1]
    for group in (single, tokens):
        letters = "".join(group)
        upper = any(letter.isupper() for letter in letters)
        lower = any(letter.islower() for letter in letters)
        if upper or lower:
            return "keep" if upper and lower else "upper" if upper else "lower"
    return "keep"
