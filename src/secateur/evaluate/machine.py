"""The machine, for `doctor`: processor, threads, memory, disk and accelerators."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from secateur.evaluate.findings import Finding
from secateur.records import environment

GIB = 2**30
#: Processor flags that decide how fast this work goes, with what each of them speeds up.
FEATURES = {
    "avx2": "float32",
    "avx512f": "float32, wider",
    "avx512_bf16": "bfloat16 products",
    "amx_bf16": "bfloat16 matrix tiles",
    "asimd": "float32",
    "sve": "float32, wider",
    "bf16": "bfloat16 products",
}
_LEAST = {"x86_64": "avx2", "AMD64": "avx2", "aarch64": "asimd"}


def flags(cpuinfo: str) -> frozenset[str]:
    """The processor's flags, from the text of ``/proc/cpuinfo``."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor(cpuinfo: str | None = None) -> Finding:
    """The processor and those of its features that matter here."""
    known = flags(_read("/proc/cpuinfo") if cpuinfo is None else cpuinfo)
    name = str(environment()["cpu"])
    if not known:
        return Finding(name="processor", status="ok", detail=f"{name}; its features cannot be read here")
    there = [f"{flag} ({what})" for flag, what in FEATURES.items() if flag in known]
    least = _LEAST.get(platform.machine())
    if least is not None and least not in known:
        return Finding(
            name="processor",
            status="note",
            detail=f"{name}, without {least}: everything works, slowly",
            remedy="Learn and measure on a newer machine; a run folder can be moved.",
        )
    lacking = "" if {"avx512_bf16", "amx_bf16", "bf16"} & known else "; no bfloat16, so keep precision fp32"
    return Finding(name="processor", status="ok", detail=f"{name}: {', '.join(there)}{lacking}")


def threads() -> Finding:
    """How many threads torch uses, against the cores that this process may use."""
    import torch

    cores, used, quota = int(environment()["cores"]), torch.get_num_threads(), cpu_quota()
    allowed = cores if quota is None else min(cores, quota)
    limit = "" if quota is None or quota >= cores else f", of which the container grants {quota:g}"
    detail = f"{used} threads on {cores} cores{limit}"
    if used > allowed:
        return Finding(
            name="threads",
            status="note",
            detail=f"{detail}: threads wait for each other",
            remedy=f"Set OMP_NUM_THREADS={max(1, int(allowed))}.",
        )
    if used < allowed and "OMP_NUM_THREADS" in os.environ:
        detail += f", because OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']}"
    return Finding(name="threads", status="ok", detail=detail)


def cpu_quota(text: str | None = None) -> float | None:
    """Cores that a container may use at a time, from ``cpu.max``; None without a limit."""
    words = (_read("/sys/fs/cgroup/cpu.max") if text is None else text).split()
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def memory() -> Finding:
    """Free memory, that of a container where it has its own limit."""
    free = free_memory()
    if free is None:
        return Finding(name="memory", status="ok", detail="the free memory cannot be read here")
    detail = f"{free / GIB:.1f} GiB free"
    if free < 4 * GIB:
        return Finding(
            name="memory",
            status="note",
            detail=f"{detail}; learning holds a teacher, a student, its gradients and two moments of each weight",
            remedy="Close other programs, or lower the seconds of audio in a step.",
        )
    return Finding(name="memory", status="ok", detail=detail)


def free_memory() -> int | None:
    """Bytes of memory that can still be had."""
    free = None
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (_read(f"/sys/fs/cgroup/memory.{word}").strip() for word in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        rest = max(int(limit) - int(used), 0)
        free = rest if free is None else min(free, rest)
    return free


def disk(folder: Path) -> Finding:
    """Room for a run folder: a checkpoint is the weights and two moments of each."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free for the run folder"
    if not os.access(place, os.W_OK):
        return Finding(
            name="disk",
            status="problem",
            detail=f"{detail}, but it cannot be written to",
            remedy="Name another folder for the run.",
        )
    if free < 4 * GIB:
        # 94 million float32 weights, three times over, twice: the last good checkpoint stays until a new one is whole.
        return Finding(
            name="disk",
            status="note",
            detail=f"{detail}; two checkpoints of a Base model take about 2.1 GiB",
            remedy="Free some space, or name a folder on another disk.",
        )
    return Finding(name="disk", status="ok", detail=detail)


def accelerators() -> Finding:
    """Accelerators that torch can use, and a mismatch between what is there and torch's build."""
    import torch

    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / GIB:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        ]
        return Finding(name="accelerators", status="ok", detail=", ".join(names))
    driver = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    if driver:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        return Finding(
            name="accelerators",
            status="note",
            detail=f"an NVIDIA driver is here, but torch ({built}) cannot use it",
            remedy="Install a torch that fits the driver (https://pytorch.org/get-started), or go on with the CPU.",
        )
    if torch.backends.mps.is_available():
        detail = "none that secateur is tested on; Apple's is here, and the CPU is used"
        return Finding(name="accelerators", status="ok", detail=detail)
    return Finding(name="accelerators", status="ok", detail="none; the CPU is used")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not Linux, or not for us to see
