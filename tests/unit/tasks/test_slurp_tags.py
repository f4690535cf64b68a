"""Tagged texts: round trips, and arbitrary output of an untrained head."""

from __future__ import annotations

import pytest

from secateur.tasks.slurp_tags import (
    Entity,
    SemanticFrame,
    TextSpan,
    format_target,
    parse_brackets,
    parse_frame,
)


def test_brackets_become_pieces() -> None:
    assert parse_brackets("wake me up at [time : five am]") == (TextSpan("wake me up at"), TextSpan("five am", "time"))
    assert parse_brackets("[date : today] [time:  five   am ]") == (
        TextSpan("today", "date"),
        TextSpan("five am", "time"),
    )
    assert parse_brackets("it is 5:30") == (TextSpan("it is 5:30"),)
    assert parse_brackets(" ") == ()


@pytest.mark.parametrize("text", ["at [time : five", "at time : five]", "at [five]", "[ : five]", "[a : [b : c]]"])
def test_brackets_that_cannot_be_read_are_none(text: str) -> None:
    assert parse_brackets(text) is None


def test_there_and_back() -> None:
    parts = (
        TextSpan("five am", "time"),
        TextSpan("today", "date"),
        TextSpan("please"),
        TextSpan("now"),
        TextSpan("bob", "person"),
    )
    text = format_target("alarm_set", parts)
    assert text == "<intent:alarm_set><slot:time>five am</slot><slot:date>today</slot>please now<slot:person>bob</slot>"
    entities = (Entity("time", "five am"), Entity("date", "today"), Entity("person", "bob"))
    assert parse_frame(text) == SemanticFrame("alarm_set", entities, "five am today please now bob")


@pytest.mark.parametrize(
    ("text", "intent", "entities", "words"),
    [
        ("", None, [], ""),
        ("wake me", None, [], "wake me"),
        ("wake<intent:a>me", "a", [], "wake me"),
        ("<intent:a><intent:b>me", "a", [], "me"),
        ("<intent:a>at<slot:t>five am", "a", [("t", "five am")], "at five am"),
        ("at<slot:t>five<slot:d>today</slot>ok", None, [("t", "five"), ("d", "today")], "at five today ok"),
        ("at five</slot>ok", None, [], "at five ok"),
        ("at<slot:t></slot>five", None, [], "at five"),
        ("<slot:t>five</slot></slot>ok", None, [("t", "five")], "five ok"),
        ("<slot:t>five<intent:a>am</slot>", "a", [("t", "five am")], "five am"),
    ],
)
def test_whatever_was_written_is_read(
    text: str, intent: str | None, entities: list[tuple[str, str]], words: str
) -> None:
    assert parse_frame(text) == SemanticFrame(intent, tuple(Entity(*item) for item in entities), words)
