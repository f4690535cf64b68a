"""Versions and machine that a measurement was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.records.section import Section


@dataclass(frozen=True, kw_only=True)
class Environment(Section):
    """Versions, processor, threads and accelerators, without a host name, a user or a path.

    Attributes:
        python: Version of Python.
        versions: Version by package; None where the package is not installed.
        platform: Operating system and processor architecture.
        cpu: Model of the processor.
        cores: Cores that the process may use.
        threads: Threads of torch.
        accelerators: Names of the GPUs that torch sees.
        float32_products: Precision of float32 matrix products in torch; None where torch is not loaded.
        malloc: Environment variables that configure malloc; None in older records.
    """

    python: str | None = None
    versions: Mapping[str, str | None] | None = None
    platform: str | None = None  # "Linux x86_64"
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    accelerators: tuple[str, ...] = ()
    float32_products: str | None = None  # "highest", "high" or "medium"
    malloc: Mapping[str, str] | None = None  # {"MALLOC_TRIM_THRESHOLD_": "…"}; empty if unset

    @classmethod
    def current(cls) -> Environment:
        """Return the environment of the current process, with threads and accelerators of torch if torch is loaded."""
        # Not imported: a command without torch must stay fast and work without it.
        torch = sys.modules.get("torch")
        accelerators: tuple[str, ...] = ()
        if torch is not None and torch.cuda.is_available():
            accelerators = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return cls(
            python=platform.python_version(),
            versions={name: _version(name) for name in ("secateur", "torch", "transformers", "accelerate")},
            platform=f"{platform.system()} {platform.machine()}",
            cpu=cpu_model(),
            cores=usable_cores(),
            threads=torch.get_num_threads() if torch is not None else usable_cores(),
            accelerators=accelerators,
            float32_products=torch.get_float32_matmul_precision() if torch is not None else None,
            malloc={name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        )


def usable_cores() -> int:
    """Return the number of cores that the process may use; a container often has fewer cores than the machine."""
    # Linux; macOS and Windows have no affinity, so all cores count.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                # "model name\t: AMD EPYC 7B13" -> "AMD EPYC 7B13"
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
