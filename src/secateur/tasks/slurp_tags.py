"""Meaning as text: an intent token, then the words, each entity between an opening token of its type and a closing one.

The same meaning in a manifest and as what a head writes::

    wake me up at [time : five am]          with the label alarm_set
    <intent:alarm_set>wake me up at<slot:time>five am</slot>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLOT_END = "</slot>"
_TOKEN = re.compile(r"<(intent|slot):([^<>]*)>|</slot>")
_BRACKETS = re.compile(r"\[([^\[\]:]*):([^\[\]]*)\]")

#: Characters that tokens and tags are made of, which no word may hold.
RESERVED = "<>[]"


@dataclass(frozen=True)
class TextSpan:
    """A stretch of words, and the type of entity that they are; None for none."""

    words: str
    type: str | None = None


@dataclass(frozen=True)
class Entity:
    """An entity: its type and its words, the filler."""

    type: str
    filler: str


@dataclass(frozen=True)
class SemanticFrame:
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


def parse_brackets(tagged: str) -> tuple[TextSpan, ...] | None:
    """The pieces of a text in bracket notation, without empty ones; None where its brackets cannot be read."""
    spans: list[TextSpan] = []
    end = 0
    for match in _BRACKETS.finditer(tagged):
        spans += [TextSpan(tagged[end : match.start()]), TextSpan(match[2], match[1].strip())]
        end = match.end()
    spans.append(TextSpan(tagged[end:]))
    plain_text = "".join(piece.words for piece in spans)
    if any(sign in plain_text for sign in "[]") or any(piece.type == "" for piece in spans):
        return None
    return tuple(TextSpan(" ".join(piece.words.split()), piece.type) for piece in spans if piece.words.strip())


def format_target(intent: str, spans: Iterable[TextSpan]) -> str:
    """What a head is to write: no spaces around tokens, which the library's tokenizer would swallow."""
    text = intent_token(intent)
    is_at_boundary = True  # nothing, or a token, stands before
    for part in spans:
        if part.type is None:
            text += part.words if is_at_boundary else f" {part.words}"
        else:
            text += f"{slot_token(part.type)}{part.words}{SLOT_END}"
        is_at_boundary = part.type is not None
    return text


def parse_frame(text: str) -> SemanticFrame:
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

    def append_entity() -> None:
        if type is not None and filler:
            entities.append(Entity(type, " ".join(filler)))

    for match in (*_TOKEN.finditer(text), None):
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
        type, filler = match[2], []
    return SemanticFrame(intent, tuple(entities), " ".join(words))


def entity_types(texts: Iterable[Sequence[TextSpan]]) -> list[str]:
    """Types of entities in the texts, sorted."""
    return sorted({piece.type for text in texts for piece in text if piece.type is not None})
