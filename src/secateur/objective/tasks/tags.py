"""Meaning as text: an intent token, then the words, each entity between an opening token of its type and a closing one.

The same meaning in a manifest and as what a head writes::

    wake me up at [time : five am]          with the label alarm_set
    <intent:alarm_set>wake me up at<slot:time>five am</slot>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CLOSE = "</slot>"
_TOKEN = re.compile(r"<(intent|slot):([^<>]*)>|</slot>")
_BRACKETS = re.compile(r"\[([^\[\]:]*):([^\[\]]*)\]")

#: Characters that tokens and tags are made of, which no word may hold.
RESERVED = "<>[]"


@dataclass(frozen=True)
class Piece:
    """A stretch of words, and the type of entity that they are; None for none."""

    words: str
    type: str | None = None


@dataclass(frozen=True)
class Entity:
    """An entity: its type and its words, the filler."""

    type: str
    filler: str


@dataclass(frozen=True)
class Meaning:
    """What an utterance means: intent, entities in order, and all its words."""

    intent: str | None
    entities: tuple[Entity, ...]
    words: str


def intent_token(intent: str) -> str:
    """The token that names an intent."""
    return f"<intent:{intent}>"


def is_intent(token: str) -> bool:
    """Whether a token names an intent."""
    match = _TOKEN.fullmatch(token)
    return match is not None and match[1] == "intent"


def slot_token(type: str) -> str:
    """The token that opens an entity of a type."""
    return f"<slot:{type}>"


def pieces(tagged: str) -> tuple[Piece, ...] | None:
    """The pieces of a text in bracket notation, without empty ones; None where its brackets cannot be read."""
    found: list[Piece] = []
    end = 0
    for match in _BRACKETS.finditer(tagged):
        found += [Piece(tagged[end : match.start()]), Piece(match[2], match[1].strip())]
        end = match.end()
    found.append(Piece(tagged[end:]))
    plain = "".join(piece.words for piece in found)
    if any(sign in plain for sign in "[]") or any(piece.type == "" for piece in found):
        return None
    return tuple(Piece(" ".join(piece.words.split()), piece.type) for piece in found if piece.words.strip())


def write(intent: str, parts: Iterable[Piece]) -> str:
    """What a head is to write: no spaces around tokens, which the library's tokenizer would swallow."""
    text = intent_token(intent)
    inside = True  # nothing, or a token, stands before
    for part in parts:
        if part.type is None:
            text += part.words if inside else f" {part.words}"
        else:
            text += f"{slot_token(part.type)}{part.words}{CLOSE}"
        inside = part.type is not None
    return text


def read(text: str) -> Meaning:
    """The meaning of what a head wrote, whatever it wrote.

    The first intent counts, wherever it stands. An entity that is not closed ends at the next token of an entity, or
    with the text; entities do not lie within each other. A closing token without an open entity says nothing, and
    neither does an entity without words.
    """
    intent: str | None = None
    entities: list[Entity] = []
    words: list[str] = []
    type: str | None = None
    filler: list[str] = []
    end = 0

    def close() -> None:
        if type is not None and filler:
            entities.append(Entity(type, " ".join(filler)))

    for match in (*_TOKEN.finditer(text), None):
        spoken = text[end : match.start() if match else len(text)].split()
        words += spoken
        filler += spoken
        if match is None:
            close()
            break
        end = match.end()
        if match[1] == "intent":
            intent = match[2] if intent is None else intent
            continue
        close()
        type, filler = match[2], []
    return Meaning(intent, tuple(entities), " ".join(words))


def types(texts: Iterable[Sequence[Piece]]) -> list[str]:
    """Types of entities in the texts, sorted."""
    return sorted({piece.type for text in texts for piece in text if piece.type is not None})
