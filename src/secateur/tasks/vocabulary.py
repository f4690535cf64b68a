"""Vocabulary of a CTC head or a transducer, on top of a Hugging Face tokenizer."""

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

# Special tokens of a new vocabulary.
BLANK = "<pad>"
UNKNOWN_TOKEN = "<unk>"
DELIMITER = "|"
# Entry of the tokenizer's config by which AutoProcessor finds a processor, for every family here.
_PROCESSOR = "Wav2Vec2Processor"
_FILES = ("vocab.json", "tokenizer.json")  # either file suffices for a tokenizer
# Case maps of the letters i and ı by the case of the vocabulary, for vocabularies that have both (and also ğ, as in
# Turkish): I is the capital of ı, and İ that of i.
_DOTTED_I = {"lower": ("ığ", str.maketrans("Iİ", "ıi")), "upper": ("İĞ", str.maketrans("iı", "İI"))}
_TOKENIZER_FILES = (*_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Vocabulary:
    """Tokenizer with a blank, a letter case, and a test of the characters that can be encoded.

    Attributes:
        tokenizer: Hugging Face tokenizer.
        case: Case of texts before encoding: ``upper``, ``lower`` or ``keep``.
        blank: Id of the blank.
        outputs: Number of outputs of the head; tokens with higher ids cannot be encoded.
    """

    def __init__(
        self, tokenizer: Any, *, case: LetterCase = "auto", blank: int | None = None, outputs: int | None = None
    ) -> None:
        """
        Args:
            tokenizer: Hugging Face tokenizer.
            case: Case of texts; ``auto``: the case of most letters of the vocabulary.
            blank: Id of the blank; None: the tokenizer's padding token.
            outputs: Number of outputs of the head; None: one for each token.

        Raises:
            ConfigError: The tokenizer has no padding token, or converts texts to upper case while its vocabulary is in
                lower case.
        """
        if blank is None and tokenizer.pad_token_id is None:
            raise ConfigError("The tokenizer has no padding token, which a new head and CTC need as their blank.")
        self.tokenizer = tokenizer
        vocabulary_case = _case_of(tokenizer)
        if vocabulary_case == "lower" and _capitalizes(tokenizer):
            raise ConfigError(
                "The tokenizer has do_lower_case set, with which a Wav2Vec2CTCTokenizer converts every text to upper "
                "case, but the letters of its vocabulary are in lower case, so that all would be unknown: set "
                "do_lower_case to false in its tokenizer_config.json."
            )
        self.case = vocabulary_case if case == "auto" else case
        self.blank: int = tokenizer.pad_token_id if blank is None else blank
        self.outputs = len(tokenizer) if outputs is None else outputs
        # Caches by character, because `clean` asks for each character of each text.
        self._is_known = lru_cache(maxsize=None)(lambda character: self._is_writable_text(character))
        self._other_case_form = lru_cache(maxsize=None)(lambda character: self._find_other_case_form(character))
        dotted_letters, dots = _DOTTED_I.get(self.case, ("", {}))
        self._dotted_i_map = dots if dotted_letters and set(dotted_letters) <= self.tokens.keys() else {}

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def tokens(self) -> dict[str, int]:
        """Token ids by token."""
        return dict(self.tokenizer.get_vocab())

    def fits_head(self, outputs: int) -> bool:
        """Return whether a head with a number of outputs may belong to the vocabulary.

        Some heads lack outputs for added tokens at the end of a vocabulary, such as sentence marks, which do not occur
        in texts.
        """
        return bool(self.tokenizer.vocab_size <= outputs <= len(self.tokenizer))

    def clean(self, text: str) -> tuple[str, str]:
        """Return a text with encodable characters alone, and the dropped characters in order.

        Letters get the case of the vocabulary, and every run of white space becomes one space.
        """
        folded = " ".join(self._cased(text).split())
        if self._is_writable_text(folded):  # the common case, with one call of the tokenizer
            return folded, ""
        kept_characters: list[str] = []
        dropped: list[str] = []
        for character in folded:
            is_kept = character.isspace() or self._is_known(character)
            (kept_characters if is_kept else dropped).append(character)
        return " ".join("".join(kept_characters).split()), "".join(dropped)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the unknown token, if any, in place of unknown characters."""
        # In two steps, since the tokenizer's `encode` fails on an unknown character if it has no unknown token.
        return tuple(self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(text, add_special_tokens=False)))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without blanks, with a space in place of the delimiter."""
        collapses = isinstance(self.tokenizer, transformers.Wav2Vec2CTCTokenizer | transformers.ParakeetTokenizer)
        # These classes would collapse repeated tokens, which CTC decoding has done before.
        decode_kwargs = {"group_tokens": False} if collapses else {}
        return " ".join(str(self.tokenizer.decode(list(tokens), **decode_kwargs)).split())

    def is_writable(self, tokens: Sequence[int | None]) -> bool:
        """Return whether all tokens, as from `encode`, are known outputs of the head and no blanks."""
        excluded_tokens = {None, self.tokenizer.unk_token_id, self.blank}
        return all(token not in excluded_tokens and token is not None and token < self.outputs for token in tokens)

    def save(self, folder: Path) -> None:
        """Write the files of the tokenizer, in place of another tokenizer's files in the folder."""
        for name in _TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def _cased(self, text: str) -> str:
        """Return a text in the vocabulary's case, except for letters that exist in the opposite case alone.

        An example is ß in a vocabulary of capitals, because its upper case is two letters.
        """
        if self.case == "keep":
            return text
        # A run of letters shares one form: either the empty form, for the vocabulary's case, or the same single letter.
        runs = groupby(text.translate(self._dotted_i_map), key=self._other_case_form)
        pieces = []
        for form, letters in runs:
            run = "".join(letters)
            pieces.append(form * len(run) if form else fold_case(run, self.case))
        return "".join(pieces)

    def _find_other_case_form(self, character: str) -> str:
        """Return the form of a letter that the vocabulary has in the opposite case alone; else an empty string."""
        folded = fold_case(character, self.case)
        if len(folded) == 1 and self._is_known(folded):  # the usual letter
            return ""
        if len(folded) > 1 and not self._is_known(character):  # ß without ß in the vocabulary is spelled out
            return ""
        forms = (character, fold_case(character, "lower" if self.case == "upper" else "upper"))
        return next((form for form in forms if len(form) == 1 and form != folded and self._is_known(form)), "")

    def _is_writable_text(self, text: str) -> bool:
        return self.is_writable(self.encode(text))


def fold_case(text: str, case: LetterCase) -> str:
    """Return a text in upper or lower case; unchanged for ``auto`` and ``keep``."""
    if case == "upper":
        return text.upper()
    return text.lower() if case == "lower" else text


def characters(texts: Iterable[str], case: LetterCase) -> list[str]:
    """Return the sorted characters of texts in a case, without white space and the word delimiter."""
    character_set = {character for text in texts for character in fold_case(text, case)}
    return sorted(character for character in character_set if not character.isspace() and character != DELIMITER)


def make_tokenizer(symbols: Sequence[str], *, extra: Sequence[str] = ()) -> Any:
    """Return a new tokenizer: blank, unknown token and word delimiter, then characters, then longer tokens.

    Args:
        symbols: Characters, in the order of their ids.
        extra: Longer tokens, which are never split.
    """
    tokens = [BLANK, UNKNOWN_TOKEN, DELIMITER, *symbols, *extra]
    with tempfile.TemporaryDirectory() as folder:  # Wav2Vec2CTCTokenizer reads a file
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(
            str(path),
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN_TOKEN,
            pad_token=BLANK,
            word_delimiter_token=DELIMITER,
            processor_class=_PROCESSOR,
        )


def has_tokenizer(source: str | Path) -> bool:
    """Return whether a folder, or a model on the hub, has a tokenizer.

    Raises:
        ConfigError: The hub cannot be reached. Else the vocabulary would depend on the network.
    """
    try:
        return any(cached_file(str(source), name, _raise_exceptions_for_missing_entries=False) for name in _FILES)
    except OSError as error:
        raise ConfigError(
            f"Cannot determine whether {str(source)!r} has a tokenizer ({_first_line(error)}); name a folder, or "
            "download the model first."
        ) from error


def load_tokenizer(source: str | Path) -> Any:
    """Return the tokenizer of a folder or hub id, without running remote code.

    Raises:
        ConfigError: The tokenizer is missing or cannot be loaded.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(source), processor_class=_PROCESSOR, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"No tokenizer can be loaded from {str(source)!r} ({_first_line(error)}); expected a folder or hub id with "
            "tokenizer files, or 'characters'."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _case_of(tokenizer: Any) -> Literal["keep", "upper", "lower"]:
    """Return the case of a vocabulary's letters, or ``keep`` for many of either case or for letters without case.

    Letters are the tokens of one character, or the characters of all tokens where no such token is a letter. ``keep``
    needs at least half as many letters of one case as of the other, so that a stray capital does not count.
    """
    tokens = [token for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens]
    single = [token for token in tokens if len(token) == 1]
    for group in (single, tokens):
        letters = set("".join(group))
        upper = sum(letter != letter.lower() for letter in letters)
        lower = sum(letter != letter.upper() for letter in letters)
        if upper or lower:
            if 2 * min(upper, lower) >= max(upper, lower):
                return "keep"
            return "upper" if upper > lower else "lower"
    return "keep"


def _capitalizes(tokenizer: Any) -> bool:
    """Return whether a tokenizer converts texts to upper case before the lookup in the vocabulary."""
    return isinstance(tokenizer, transformers.Wav2Vec2CTCTokenizer) and bool(tokenizer.do_lower_case)
