"""The examination of an installation: what is there, what will break, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from secateur.evaluate import machine, settings
from secateur.evaluate.findings import Finding
from secateur.evaluate.smoke import smoke

logger = logging.getLogger(__name__)

#: What the tests were run with.
TESTED = {"python": "3.11", "torch": "2.13.0", "transformers": "5.23.0", "accelerate": "1.15.0"}


def examine(*, folder: Path = Path("runs")) -> list[Finding]:
    """Examine this installation and machine.

    Nothing is changed, written or fetched. A check that fails with an error is itself a finding, so that a broken
    installation is examined to the end.

    Args:
        folder: Where run folders will lie; it need not exist.
    """
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", lambda: [python()]),
        ("packages", packages),
        ("torchaudio and torchcodec", breakers),
        ("torch build", lambda: [torch_build()]),
        ("accelerators", lambda: [machine.accelerators()]),
        ("processor", lambda: [machine.processor()]),
        ("threads", lambda: [machine.threads()]),
        ("memory", lambda: [machine.memory()]),
        ("disk", lambda: [machine.disk(folder)]),
        ("audio files", lambda: [audio()]),
        ("synthetic speech", lambda: [synthetic()]),
        ("malloc", lambda: [settings.malloc()]),
        ("float32 products", lambda: [settings.products()]),
        ("bfloat16 convolutions", lambda: [settings.convolutions()]),
        ("smoke test", lambda: [smoke()]),
    ]
    found: list[Finding] = []
    for name, check in checks:
        found.extend(_guarded(name, check))
    return found


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # whatever is broken, the rest is still to be examined
        logger.debug("the check of %s failed", name, exc_info=True)
        first = (str(error).strip().splitlines() or [""])[0]
        return [
            Finding(
                name=name,
                status="problem",
                detail=f"could not be examined: {type(error).__name__}: {first}",
                remedy="Deal with the problems named above it first; then install secateur afresh.",
            )
        ]


def python() -> Finding:
    """The interpreter, against the one that was tested."""
    version = platform.python_version()
    same = version.startswith(TESTED["python"] + ".")
    detail = version if same else f"{version}; tested with {TESTED['python']}"
    return Finding(name="python", status="ok" if same else "note", detail=detail)


def packages() -> list[Finding]:
    """Every package that secateur needs, against what it asks for and what was tested."""
    needed = [Requirement(text) for text in importlib.metadata.requires("secateur") or ()]
    return [_package(one) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _package(needed: Requirement) -> Finding:
    version = _version(needed.name)
    allowed, install = str(needed.specifier), f"pip install '{needed}'"
    if version is None:
        return Finding(name=needed.name, status="problem", detail=f"not installed; needs {allowed}", remedy=install)
    if not needed.specifier.contains(version, prereleases=True):
        return Finding(name=needed.name, status="problem", detail=f"{version}; needs {allowed}", remedy=install)
    tested = TESTED.get(needed.name)
    if tested is None or Version(version).base_version == tested:
        return Finding(name=needed.name, status="ok", detail=version)
    return Finding(
        name=needed.name,
        status="note",
        detail=f"{version}; tested with {tested}",
        remedy=f"If something fails: pip install {needed.name}=={tested}",
    )


def breakers() -> list[Finding]:
    """Packages that secateur never uses, and that transformers fails on when they are there and broken."""
    return [_breaker(name) for name in ("torchaudio", "torchcodec")]


def _breaker(name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name=name, status="ok", detail="not installed, as it should be")
    version = _version(name) or "of unknown version"
    # In a process of its own: a library that cannot be loaded may take this one down.
    tried = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120, check=False
    )
    remedy = "Remove both, secateur needs neither: pip uninstall torchaudio torchcodec"
    if tried.returncode == 0:
        return Finding(
            name=name,
            status="note",
            detail=f"{version} is installed and can be imported; secateur does not use it, but transformers imports "
            "it when it is there, and breaks with it",
            remedy=remedy,
        )
    why = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    return Finding(
        name=name,
        status="problem",
        detail=f"{version} is installed and cannot be imported ({why}); transformers then fails as well",
        remedy=remedy,
    )


def torch_build() -> Finding:
    """Whether torch was built for what is here."""
    import torch

    if torch.version.cuda and not torch.cuda.is_available():
        return Finding(
            name="torch build",
            status="note",
            detail=f"built for CUDA {torch.version.cuda} on a machine without a usable GPU: works, but is several "
            "times as large",
            remedy="pip install torch --index-url https://download.pytorch.org/whl/cpu",
        )
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    return Finding(name="torch build", status="ok", detail=f"{torch.__version__}, {built}")


def audio() -> Finding:
    """The kinds of audio file that can be read."""
    import soundfile

    there = soundfile.available_formats()
    kinds = [kind for kind in ("WAV", "FLAC", "OGG", "MP3") if kind in there]
    detail = f"{', '.join(kinds)} by libsndfile {soundfile.__libsndfile_version__}"
    if len(kinds) < 4:
        return Finding(
            name="audio files",
            status="note",
            detail=f"{detail}; other kinds will be skipped",
            remedy="pip install --upgrade soundfile",
        )
    return Finding(name="audio files", status="ok", detail=detail)


def synthetic() -> Finding:
    """Whether speech can be made on the spot."""
    version = _version("espeakng-loader")
    if version is None or importlib.util.find_spec("espeakng_loader") is None:
        return Finding(
            name="synthetic speech",
            status="note",
            detail="espeakng-loader is not installed; it is needed where no recordings are named",
            remedy="pip install 'secateur[demo]', or name your own recordings",
        )
    return Finding(name="synthetic speech", status="ok", detail=f"espeakng-loader {version}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


__all__ = ["Finding", "examine"]
