"""Errors meant for the person who called us, and the sentence that names the nearest valid word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SecateurError(ValueError):
    """A mistake in what was given to us; its message says what was got, what is allowed and what to do."""


class ConfigError(SecateurError):
    """A recipe, flag or model configuration that cannot be used as it stands."""


class DataError(SecateurError):
    """Audio or a manifest that cannot be read, or too little of it."""


class SelectionError(SecateurError):
    """A selection that does not fit the model: an unknown axis, a unit that is not there."""


class ModelError(SecateurError):
    """A model that is not one of ours to prune, or whose folder cannot be loaded exactly."""


class CheckpointError(SecateurError):
    """A checkpoint that is missing, incomplete or could not be written."""


class TargetError(SecateurError):
    """A target that no selection can meet."""


class NumericsError(SecateurError):
    """A loss or gradient that is not a finite number."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The words `` Did you mean 'x'?`` for the closest allowed name, or nothing when none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def describe_cause(error: Exception) -> str:
    """Return what a library says of an error in one line without a full stop, at least the kind of error."""
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
