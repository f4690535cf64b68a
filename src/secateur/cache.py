"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder for one kind of thing, not made yet.

    It lies in `SECATEUR_CACHE`, else in the user's cache folder, else, where neither can be written, in the temporary
    one.
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
