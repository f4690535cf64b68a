"""The tokens that a CTC head or a transducer writes, read and written by a Hugging Face tokenizer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers.utils.hub import cached_file

from secateur.errors import ConfigError

LetterCase = Literal["auto", "keep", "upper", "lower"]

BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
_PROCESSOR = "Wav2Vec2Processor"  # of every family here; AutoProcessor finds it by this entry
_FILES = ("vocab.json", "tokenizer.json")  # either makes a tokenizer; its config alone does not
# What small and capital letters are to each other where a vocabulary writes both kinds of i, told by a letter beside.
_DOTTED_I = {"lower": ("ığ", str.maketrans("Iİ", "ıi")), "upper": ("İĞ", str.maketrans("iı", "İI"))}
_TOKENIZER_FILES = (*_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Vocabulary:
    """A tokenizer, the case of its letters, and which characters it can write.

    Attributes:
        tokenizer: The library's.
        case: ``upper``, ``lower`` or ``keep``: how texts are written before they are encoded.
        blank: Number of the blank.
        outputs: Of the head; tokens with other numbers are not written.
    """

    def __init__(
        self, tokenizer: Any, *, case: LetterCase = "auto", blank: int | None = None, outputs: int | None = None
    ) -> None:
        """
        Args:
            tokenizer: A Hugging Face tokenizer.
            case: As the vocabulary writes letters, or as said.
            blank: Number of the blank; None: the tokenizer's padding token.
            outputs: Of the head that writes; None: one for each token.

        Raises:
            ConfigError: The tokenizer has no padding token, or writes in capitals what its vocabulary has in small
                letters.
        """
        if blank is None and tokenizer.pad_token_id is None:
            raise ConfigError("The tokenizer has no padding token, which a new head and CTC need as their blank.")
        self.tokenizer = tokenizer
        vocabulary_case = _case_of(tokenizer)
        if vocabulary_case == "lower" and _capitalizes(tokenizer):
            raise ConfigError(
                "The tokenizer has do_lower_case set, by which a Wav2Vec2CTCTokenizer writes every text in capitals, "
                "but the letters of its vocabulary are small, so that each would be unknown: set do_lower_case to "
                "false in its tokenizer_config.json."
            )
        self.case = vocabulary_case if case == "auto" else case
        self.blank: int = tokenizer.pad_token_id if blank is None else blank
        self.outputs = len(tokenizer) if outputs is None else outputs
        self._is_known = lru_cache(maxsize=None)(lambda character: self._is_writable_text(character))
        self._other_case_form = lru_cache(maxsize=None)(lambda character: self._find_other_case_form(character))
        dotted_letters, dots = _DOTTED_I.get(self.case, ("", {}))
        self._dotted_i_map = dots if dotted_letters and set(dotted_letters) <= self.tokens.keys() else {}

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def tokens(self) -> dict[str, int]:
        """Numbers by token."""
        return dict(self.tokenizer.get_vocab())

    def fits_head(self, outputs: int) -> bool:
        """Whether a head with this many outputs may be this vocabulary's.

        Some heads were made without some of the tokens that the library adds behind a vocabulary, such as sentence
        marks; no text needs them.
        """
        return bool(self.tokenizer.vocab_size <= outputs <= len(self.tokenizer))

    def clean(self, text: str) -> tuple[str, str]:
        """The text as it can be written, and the characters that had to be dropped, in their order.

        Letters take the vocabulary's case, every run of white space becomes one space.
        """
        folded = " ".join(self._cased(text).split())
        if self._is_writable_text(folded):
            return folded, ""
        unknown = "".join(character for character in folded if not (character.isspace() or self._is_known(character)))
        known_text = "".join(character for character in folded if character.isspace() or self._is_known(character))
        return " ".join(known_text.split()), unknown

    def encode(self, text: str) -> tuple[int, ...]:
        """Numbers of the text's tokens; None among them, or the unknown token, for what cannot be written."""
        # By steps: `encode` of the library fails on one unknown character where there is no unknown token.
        return tuple(self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(text, add_special_tokens=False)))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens without blanks, with one space where the delimiter stood."""
        collapses = isinstance(self.tokenizer, transformers.Wav2Vec2CTCTokenizer | transformers.ParakeetTokenizer)
        # These classes collapse repeats by themselves, but here they are meant: CTC's were collapsed before.
        decode_kwargs = {"group_tokens": False} if collapses else {}
        return " ".join(str(self.tokenizer.decode(list(tokens), **decode_kwargs)).split())

    def is_writable(self, tokens: Sequence[int | None]) -> bool:
        """Whether tokens, as `encode` gives them, are all known and outputs of the head, and none the blank."""
        excluded_tokens = {None, self.tokenizer.unk_token_id, self.blank}
        return all(token not in excluded_tokens and token is not None and token < self.outputs for token in tokens)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, in place of any that lie there."""
        for name in _TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def _cased(self, text: str) -> str:
        """Return the text in the vocabulary's case, apart from letters that the vocabulary has in the other case alone.

        Such is ß among capitals, whose capital is two letters.
        """
        if self.case == "keep":
            return text
        runs = groupby(text.translate(self._dotted_i_map), key=self._other_case_form)
        pieces = []
        for form, letters in runs:
            run = "".join(letters)
            pieces.append(form * len(run) if form else fold_case(run, self.case))
        return "".join(pieces)

    def _find_other_case_form(self, character: str) -> str:
        """Return how a letter is written that the vocabulary does not have in its case; empty for all others."""
        folded = fold_case(character, self.case)
        if len(folded) == 1 and self._is_known(folded):
            return ""
        if len(folded) > 1 and not self._is_known(character):
            return ""
        forms = (character, fold_case(character, "lower" if self.case == "upper" else "upper"))
        return next((form for form in forms if len(form) == 1 and form != folded and self._is_known(form)), "")

    def _is_writable_text(self, text: str) -> bool:
        return self.is_writable(self.encode(text))


def fold_case(text: str, case: LetterCase) -> str:
    """The text in a case; as it is for ``auto`` and ``keep``."""
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


def characters(texts: Iterable[str], case: LetterCase) -> list[str]:
    """Every character of the texts in a case, sorted, without white space and the word delimiter."""
    character_set = {character for text in texts for character in fold_case(text, case)}
    return sorted(character for character in character_set if not character.isspace() and character != DELIMITER)


def make_tokenizer(symbols: Sequence[str], *, extra: Sequence[str] = ()) -> Any:
    """A new tokenizer: blank, unknown, word delimiter, characters, then tokens of several characters.

    Args:
        signs: Characters, in the order of their numbers.
        extra: Longer tokens, each kept whole wherever it stands in a text.
    """
    tokens = [BLANK, UNKNOWN, DELIMITER, *symbols, *extra]
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


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder or hub id; code that comes with it is never run.

    Raises:
        ConfigError: There is none, or it cannot be loaded.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(source), processor_class=_PROCESSOR, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"No tokenizer can be loaded from {str(source)!r} ({_first_line(error)}); name a folder or hub id "
            "with tokenizer files, or 'characters'."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _case_of(tokenizer: Any) -> Literal["keep", "upper", "lower"]:
    """Return the case of most of a vocabulary's letters, or ``keep`` where it has many of both or none with a case.

    Letters are single characters, or those of all tokens where no character is a letter. Many are half as many as of
    the other case: a stray capital among small letters is no reason to keep the case of texts.
    """
    tokens = [token for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens]
    single = [token for token in tokens if len(token) == 1]
    for group in (single, tokens):
        letters = set("".join(group))
        upper = sum(letter != letter.lower() for letter in letters)
        lower = sum(letter != letter.upper() for letter in letters)
        if upper or lower:
            return "keep" if 2 * min(upper, lower) >= max(upper, lower) else "upper" if upper > lower else "lower"
    return "keep"


def _capitalizes(tokenizer: Any) -> bool:
    """Return whether a tokenizer writes every text in capitals before it looks up what is in its vocabulary."""
    return isinstance(tokenizer, transformers.Wav2Vec2CTCTokenizer) and bool(tokenizer.do_lower_case)
