"""The folder of cached files, which can be made again at any time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder of a kind of cached files, which is not made yet.

    The folder lies in `SECATEUR_CACHE` if set, else in the user's cache folder, else, where that cannot be written, in
    the temporary folder.
    """
    configured_path = os.environ.get("SECATEUR_CACHE")
    base = (
        Path(configured_path)
        if configured_path
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"
    )
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        base = Path(tempfile.gettempdir()) / "secateur"
        base.mkdir(parents=True, exist_ok=True)
    return base / name
