"""Files of models in a folder, in the cache of the hub library, or on the hub if the hub is reachable."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache
from transformers.utils.hub import cached_file


def is_reachable(model: str) -> bool:
    """Return whether a model is cached, or the hub is reachable."""
    return isinstance(try_to_load_from_cache(model, "config.json"), str) or is_hub_reachable()


def is_hub_reachable() -> bool:
    """Return whether the host name of the hub resolves, which spares half a minute of retries without a network.

    A name that fails to resolve twice counts as unreachable. With a proxy, which resolves names itself, and in offline
    mode the function returns True and leaves the decision to the hub library.
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
    """Return the path of a small file of a model in a folder, the hub's cache or the hub.

    Returns None if the file does not exist. For a model given by the path of a ``config.json``, the folder of this file
    is searched.
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
