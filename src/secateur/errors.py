"""Errors with messages for the user, and the hint at the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SecateurError(ValueError):
    """Base class: invalid input, with a message that names the input, the allowed values and the remedy."""


class ConfigError(SecateurError):
    """Invalid recipe, flag or model configuration."""


class DataError(SecateurError):
    """Unreadable audio or manifest, or too little audio."""


class SelectionError(SecateurError):
    """Selection that does not fit the model: an unknown axis, a missing unit."""


class ModelError(SecateurError):
    """Model of an unsupported family, or a model folder that cannot be loaded exactly."""


class CheckpointError(SecateurError):
    """Missing, incomplete or unwritable checkpoint."""


class TargetError(SecateurError):
    """Target that no selection can meet."""


class NumericsError(SecateurError):
    """Loss or gradient that is not a finite number."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return the hint `` Did you mean 'x'?`` for the closest allowed name, or an empty text if no name is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def describe_cause(error: Exception) -> str:
    """Return the message of a library's error on a single line without a full stop, or else the class of the error."""
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
