"""Text form of intent, words and entities: an intent token, then the words, with slot tokens around each entity.

The same utterance in a manifest and as a target sequence::

    wake me up at [time : five am]          and the label alarm_set
    <intent:alarm_set>wake me up at<slot:time>five am</slot>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLOT_END = "</slot>"
# Group 1 is the kind and group 2 the name; both are empty for the closing token.
_TOKEN = re.compile(r"<(intent|slot):([^<>]*)>|</slot>")
# [type : words], without nesting.
_BRACKETS = re.compile(r"\[([^\[\]:]*):([^\[\]]*)\]")

#: Characters of tokens and tags, which must not occur in words.
RESERVED = "<>[]"


@dataclass(frozen=True)
class TextSpan:
    """Consecutive words with an entity type, or without a type outside entities."""

    words: str
    type: str | None = None


@dataclass(frozen=True)
class Entity:
    """Type and words of an entity; the words are called the filler."""

    type: str
    filler: str


@dataclass(frozen=True)
class SemanticFrame:
    """Intent, entities in order, and all words of an utterance."""

    intent: str | None
    entities: tuple[Entity, ...]
    words: str


def intent_token(intent: str) -> str:
    """Return the token of an intent."""
    return f"<intent:{intent}>"


def is_intent(token: str) -> bool:
    """Return whether a token names an intent."""
    match = _TOKEN.fullmatch(token)
    return match is not None and match[1] == "intent"


def slot_token(type: str) -> str:
    """Return the opening token of an entity type."""
    return f"<slot:{type}>"


def parse_brackets(tagged: str) -> tuple[TextSpan, ...] | None:
    """Return the non-empty spans of a text in bracket notation, if the brackets are well-formed.

    ``wake me at [time : five am]`` has the spans ``wake me at`` and, of the type ``time``, ``five am``.
    """
    spans: list[TextSpan] = []
    end = 0
    for match in _BRACKETS.finditer(tagged):
        # The text before the brackets, then the words inside, with their type.
        spans += [TextSpan(tagged[end : match.start()]), TextSpan(match[2], match[1].strip())]
        end = match.end()
    spans.append(TextSpan(tagged[end:]))
    plain_text = "".join(piece.words for piece in spans)
    if any(sign in plain_text for sign in "[]") or any(piece.type == "" for piece in spans):
        return None
    return tuple(TextSpan(" ".join(piece.words.split()), piece.type) for piece in spans if piece.words.strip())


def format_target(intent: str, spans: Iterable[TextSpan]) -> str:
    """Return the target sequence, without spaces around tokens, which the tokenizer would remove."""
    text = intent_token(intent)
    is_at_boundary = True  # whether the text so far ends with a token
    for part in spans:
        if part.type is None:
            text += part.words if is_at_boundary else f" {part.words}"
        else:
            text += f"{slot_token(part.type)}{part.words}{SLOT_END}"
        is_at_boundary = part.type is not None
    return text


def parse_frame(text: str) -> SemanticFrame:
    """Return intent, entities and words of a decoded sequence; every sequence is valid.

    The first intent counts, wherever it stands. An entity without a closing token ends at the next slot token or at the
    end of the text, so that entities are never nested. Closing tokens outside entities, and entities without words, are
    ignored.
    """
    intent: str | None = None
    entities: list[Entity] = []
    words: list[str] = []
    type: str | None = None
    filler: list[str] = []
    end = 0

    def append_entity() -> None:
        if type is not None and filler:
            entities.append(Entity(type, " ".join(filler)))

    for match in (*_TOKEN.finditer(text), None):  # None stands for the end of the text
        # Words between the token before and this one.
        token_words = text[end : match.start() if match else len(text)].split()
        words += token_words
        filler += token_words
        if match is None:
            append_entity()
            break
        end = match.end()
        if match[1] == "intent":
            intent = match[2] if intent is None else intent
            continue
        append_entity()
        type, filler = match[2], []  # type is None behind a closing token
    return SemanticFrame(intent, tuple(entities), " ".join(words))


def entity_types(texts: Iterable[Sequence[TextSpan]]) -> list[str]:
    """Return the sorted entity types of parsed texts."""
    return sorted({piece.type for text in texts for piece in text if piece.type is not None})
