"""Files of models: in a folder, in the cache of the hub library, or on the hub where that is within reach."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache
from transformers.utils.hub import cached_file


def is_reachable(model: str) -> bool:
    """Whether it is worth asking the hub library for a model: it finds cached files at once."""
    return isinstance(try_to_load_from_cache(model, "config.json"), str) or is_hub_reachable()


def is_hub_reachable() -> bool:
    """Whether it is worth asking the hub library for what is not cached; without a network it asks for half a minute.

    It is not when the hub's name does not resolve, twice; a proxy resolves names itself. On a slow or guarded network
    names do resolve, and the library goes its own way.
    """
    if is_offline_mode() or getproxies():
        return True
    for pause in (1.0, 0.0):
        try:
            socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
            return True
        except socket.gaierror:
            time.sleep(pause)
    return False


def find_file(source: str | Path, name: str) -> Path | None:
    """Return a small file of a model, from its folder or the hub's cache; None where there is none.

    Of a model that is given as a config file, what lies beside its ``config.json`` counts.
    """
    folder = Path(source)
    if folder.is_file():
        folder = folder.parent if folder.name == "config.json" else folder
    if folder.exists():
        path = folder / name
        return path if path.is_file() else None
    cached_path = try_to_load_from_cache(str(source), name)
    if isinstance(cached_path, str) or not is_hub_reachable():
        return Path(cached_path) if isinstance(cached_path, str) else None
    downloaded_path = cached_file(
        str(source),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(downloaded_path) if downloaded_path else None
