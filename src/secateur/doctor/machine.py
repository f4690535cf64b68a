"""The machine, for `doctor`: processor, threads, memory, disk and accelerators."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from secateur.records.environment import cpu_model, usable_cores
from secateur.records.finding import Finding

GIB = 2**30
#: Processor flags that decide how fast this work goes, with what each of them speeds up.
CPU_FEATURES = {
    "avx2": "float32",
    "avx512f": "float32, wider",
    "avx512_bf16": "bfloat16 products",
    "amx_bf16": "bfloat16 matrix tiles",
    "asimd": "float32",
    "sve": "float32, wider",
    "bf16": "bfloat16 products",
}
# Windows says AMD64 where Linux says x86_64.
_REQUIRED_FLAGS = {"x86_64": "avx2", "AMD64": "avx2", "aarch64": "asimd"}


def parse_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the processor's flags, from the text of ``/proc/cpuinfo``."""
    # "flags : fpu vme avx2 ..." on x86, "Features : fp asimd sve ..." on Arm
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor(cpuinfo: str | None = None) -> Finding:
    """Report the processor and the features that decide the speed of torch."""
    cpu_flags = parse_cpu_flags(_read("/proc/cpuinfo") if cpuinfo is None else cpuinfo)
    name = cpu_model()
    if not cpu_flags:
        return Finding(name="processor", status="ok", detail=f"{name}; its features cannot be read here")
    supported_features = [f"{flag} ({speedup})" for flag, speedup in CPU_FEATURES.items() if flag in cpu_flags]
    required_flag = _REQUIRED_FLAGS.get(platform.machine())
    if required_flag is not None and required_flag not in cpu_flags:
        return Finding(
            name="processor",
            status="note",
            detail=f"{name}, without {required_flag}: everything works, slowly",
            remedy="Learn and measure on a newer machine; a run folder can be moved.",
        )
    bfloat16_note = "" if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags else "; no bfloat16, so keep precision fp32"
    return Finding(name="processor", status="ok", detail=f"{name}: {', '.join(supported_features)}{bfloat16_note}")


def threads() -> Finding:
    """Check the number of threads that torch uses against the available cores."""
    import torch

    cores, num_threads, quota = usable_cores(), torch.get_num_threads(), cpu_quota()
    available_cores = cores if quota is None else min(cores, quota)
    quota_note = "" if quota is None or quota >= cores else f", of which the container grants {quota:g}"
    detail = f"{num_threads} threads on {cores} cores{quota_note}"
    if num_threads > available_cores:
        return Finding(
            name="threads",
            status="note",
            detail=f"{detail}: threads wait for each other",
            remedy=f"Set OMP_NUM_THREADS={max(1, int(available_cores))}.",
        )
    if num_threads < available_cores and "OMP_NUM_THREADS" in os.environ:
        detail += f", because OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']}"
    return Finding(name="threads", status="ok", detail=detail)


def cpu_quota(text: str | None = None) -> float | None:
    """Return the cores that a container may use, from ``cpu.max``; `None` without a limit."""
    words = (_read("/sys/fs/cgroup/cpu.max") if text is None else text).split()
    # "150000 100000" is 150 ms of processor time in every 100 ms, hence 1.5 cores; "max 100000" is no limit.
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def memory() -> Finding:
    """Check the free memory, within the limit of a container."""
    free_bytes = free_memory()
    if free_bytes is None:
        return Finding(name="memory", status="ok", detail="the free memory cannot be read here")
    detail = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes < 4 * GIB:
        return Finding(
            name="memory",
            status="note",
            detail=f"{detail}; learning holds a teacher, a student, its gradients and two moments of each weight",
            remedy="Close other programs, or lower the seconds of audio in a step.",
        )
    return Finding(name="memory", status="ok", detail=detail)


def free_memory() -> int | None:
    """Return the free memory in bytes; `None` if unknown."""
    free_bytes = None
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            # "MemAvailable:    8000000 kB", where a kB is 1024 bytes
            free_bytes = int(line.split()[1]) * 1024
    # The limit of a container in bytes, or "max".
    limit, usage = (_read(f"/sys/fs/cgroup/memory.{word}").strip() for word in ("max", "current"))
    if limit.isdigit() and usage.isdigit():
        remaining_bytes = max(int(limit) - int(usage), 0)
        free_bytes = remaining_bytes if free_bytes is None else min(free_bytes, remaining_bytes)
    return free_bytes


def disk(folder: Path) -> Finding:
    """Check the disk space for a run folder: a checkpoint has the weights and two moments of each."""
    existing_folder = folder.absolute()
    while not existing_folder.exists():
        existing_folder = existing_folder.parent  # runs/base/learn -> runs/base -> runs
    free_bytes = shutil.disk_usage(existing_folder).free
    detail = f"{free_bytes / GIB:.1f} GiB free for the run folder"
    if not os.access(existing_folder, os.W_OK):
        return Finding(
            name="disk",
            status="problem",
            detail=f"{detail}, but it cannot be written to",
            remedy="Name another folder for the run.",
        )
    if free_bytes < 4 * GIB:
        # 94 million float32 weights, three times over, twice: the last good checkpoint stays until a new one is whole.
        return Finding(
            name="disk",
            status="note",
            detail=f"{detail}; two checkpoints of a Base model take about 2.1 GiB",
            remedy="Free some space, or name a folder on another disk.",
        )
    return Finding(name="disk", status="ok", detail=detail)


def accelerators() -> Finding:
    """Report the accelerators that torch can use, or a driver that torch's build does not fit."""
    import torch

    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / GIB:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        ]
        return Finding(name="accelerators", status="ok", detail=", ".join(names))
    has_nvidia_driver = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    if has_nvidia_driver:
        build_description = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        return Finding(
            name="accelerators",
            status="note",
            detail=f"an NVIDIA driver is here, but torch ({build_description}) cannot use it",
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
