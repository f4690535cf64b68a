"""Examination of an installation: versions and machine, problems and remedies."""

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

from secateur.benchmarking import process_settings
from secateur.doctor import machine
from secateur.doctor.smoke_test import smoke_test
from secateur.records.finding import Finding

logger = logging.getLogger(__name__)

#: What the tests were run with.
TESTED_VERSIONS = {"python": "3.11", "torch": "2.13.0", "transformers": "5.23.0", "accelerate": "1.15.0"}


def examine_installation(*, folder: Path = Path("runs")) -> list[Finding]:
    """Examine the installation and the machine.

    Nothing is changed, written or fetched. A check that fails with an error is itself a finding, so that a broken
    installation is examined to the end.

    Args:
        folder: Where run folders will lie; it need not exist.
    """
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", lambda: [python()]),
        ("packages", packages),
        ("torchaudio and torchcodec", conflicting_packages),
        ("torch build", lambda: [torch_build()]),
        ("accelerators", lambda: [machine.accelerators()]),
        ("processor", lambda: [machine.processor()]),
        ("threads", lambda: [machine.threads()]),
        ("memory", lambda: [machine.memory()]),
        ("disk", lambda: [machine.disk(folder)]),
        ("audio files", lambda: [audio_formats()]),
        ("synthetic speech", lambda: [synthetic_speech()]),
        ("malloc", lambda: [process_settings.malloc()]),
        ("float32 products", lambda: [process_settings.float32_products()]),
        ("bfloat16 convolutions", lambda: [process_settings.bfloat16_convolutions()]),
        ("smoke test", lambda: [smoke_test()]),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        findings.extend(_run_check(name, check))
    return findings


def _run_check(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # whatever is broken, the rest is still to be examined
        logger.debug("the check of %s failed", name, exc_info=True)
        first_line = (str(error).strip().splitlines() or [""])[0]
        return [
            Finding(
                name=name,
                status="problem",
                detail=f"could not be examined: {type(error).__name__}: {first_line}",
                remedy="Deal with the problems named above it first; then install secateur afresh.",
            )
        ]


def python() -> Finding:
    """Check the interpreter's version against the tested version."""
    version = platform.python_version()
    # "3.11." is the start of 3.11.9, not of 3.110.
    is_tested_version = version.startswith(TESTED_VERSIONS["python"] + ".")
    detail = version if is_tested_version else f"{version}; tested with {TESTED_VERSIONS['python']}"
    return Finding(name="python", status="ok" if is_tested_version else "note", detail=detail)


def packages() -> list[Finding]:
    """Check every required package against the allowed and the tested versions."""
    requirements = [Requirement(text) for text in importlib.metadata.requires("secateur") or ()]
    return [
        _package(requirement)
        for requirement in requirements
        # Packages of an extra have a marker such as extra == "demo", which is false for the extra "".
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def _package(requirement: Requirement) -> Finding:
    version = _version(requirement.name)
    allowed_versions, install_command = str(requirement.specifier), f"pip install '{requirement}'"
    if version is None:
        return Finding(
            name=requirement.name,
            status="problem",
            detail=f"not installed; needs {allowed_versions}",
            remedy=install_command,
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            name=requirement.name,
            status="problem",
            detail=f"{version}; needs {allowed_versions}",
            remedy=install_command,
        )
    tested_version = TESTED_VERSIONS.get(requirement.name)
    # "2.13.0+cpu" has the base version "2.13.0".
    if tested_version is None or Version(version).base_version == tested_version:
        return Finding(name=requirement.name, status="ok", detail=version)
    return Finding(
        name=requirement.name,
        status="note",
        detail=f"{version}; tested with {tested_version}",
        remedy=f"If something fails: pip install {requirement.name}=={tested_version}",
    )


def conflicting_packages() -> list[Finding]:
    """Check the unused packages that break transformers if installed and broken."""
    return [_conflicting_package(name) for name in ("torchaudio", "torchcodec")]


def _conflicting_package(name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name=name, status="ok", detail="not installed, as it should be")
    version = _version(name) or "of unknown version"
    # In a process of its own: a library that cannot be loaded may take this one down.
    import_process = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120, check=False
    )
    remedy = "Remove both, secateur needs neither: pip uninstall torchaudio torchcodec"
    if import_process.returncode == 0:
        return Finding(
            name=name,
            status="note",
            detail=f"{version} is installed and can be imported; secateur does not use it, but transformers imports "
            "it when it is there, and breaks with it",
            remedy=remedy,
        )
    # The last line of a traceback names the error.
    reason = (import_process.stderr.strip().splitlines() or [f"exit code {import_process.returncode}"])[-1]
    return Finding(
        name=name,
        status="problem",
        detail=f"{version} is installed and cannot be imported ({reason}); transformers then fails as well",
        remedy=remedy,
    )


def torch_build() -> Finding:
    """Check that torch was built for the present accelerators."""
    # Imported here, so that a torch that cannot be loaded is a finding and does not stop the examination.
    import torch

    # `torch.version.cuda` is None in a build for the CPU.
    if torch.version.cuda and not torch.cuda.is_available():
        return Finding(
            name="torch build",
            status="note",
            detail=f"built for CUDA {torch.version.cuda} on a machine without a usable GPU: works, but is several "
            "times as large",
            remedy="pip install torch --index-url https://download.pytorch.org/whl/cpu",
        )
    build_target = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    return Finding(name="torch build", status="ok", detail=f"{torch.__version__}, {build_target}")


def audio_formats() -> Finding:
    """Check the kinds of audio files that can be read."""
    import soundfile

    available_formats = soundfile.available_formats()
    kinds = [kind for kind in ("WAV", "FLAC", "OGG", "MP3") if kind in available_formats]
    detail = f"{', '.join(kinds)} by libsndfile {soundfile.__libsndfile_version__}"
    if len(kinds) < 4:
        return Finding(
            name="audio files",
            status="note",
            detail=f"{detail}; other kinds will be skipped",
            remedy="pip install --upgrade soundfile",
        )
    return Finding(name="audio files", status="ok", detail=detail)


def synthetic_speech() -> Finding:
    """Check that speech can be synthesized."""
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


__all__ = ["Finding", "examine_installation"]
