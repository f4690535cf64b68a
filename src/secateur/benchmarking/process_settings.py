"""Process settings that decide speed: glibc's malloc and float32 products."""

from __future__ import annotations

import os
import platform
import time

from secateur.records.finding import Finding

#: glibc's settings that keep large buffers in the process, and values that do.
MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "2147483648",  # bytes: 2 GiB
    "MALLOC_TRIM_THRESHOLD_": "8589934592",  # 8 GiB
    "MALLOC_TOP_PAD_": "268435456",  # 256 MiB
}


_MIN_GLIBC = (2, 36)  # glibc; old ones refuse so large a threshold and then do worse than with none

#: Largest relative error of a product at which it still counts as float32.
FLOAT32_TOLERANCE = 1e-5

#: Relative error from which a bfloat16 result is wrong rather than rounded.
BFLOAT16_TOLERANCE = 0.05


def tuned_malloc_environment() -> dict[str, str] | None:
    """Return the environment for a process that keeps large buffers; `None` if set already or not supported."""
    name, version = platform.libc_ver()
    # "2.36" -> (2, 36), since "2.4" > "2.36" as text
    is_supported = name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _MIN_GLIBC
    if not is_supported or any(name in os.environ for name in MALLOC_SETTINGS):
        return None
    return dict(os.environ) | MALLOC_SETTINGS


def tune_products() -> None:
    """Let float32 products take the faster library, on processors where that is as exact."""
    import torch

    if measure_medium_products()[0] < FLOAT32_TOLERANCE:
        torch.set_float32_matmul_precision("medium")


def malloc() -> Finding:
    """Check that large buffers stay in the process."""
    if platform.libc_ver()[0] != "glibc":
        return Finding(name="malloc", status="ok", detail="not glibc's; nothing to set")
    unset_variables = [name for name in MALLOC_SETTINGS if name not in os.environ]
    if not unset_variables:
        return Finding(name="malloc", status="ok", detail="large buffers stay in the process")
    return Finding(
        name="malloc",
        status="note",
        detail="glibc gives every large buffer back to the system after use, so that each forward pass pays for "
        "its pages anew; the convolutions suffer most",
        remedy="`prune`, `pretrain` and `bench` do so by themselves; elsewhere set before starting: "
        + " ".join(f"{name}={value}" for name, value in MALLOC_SETTINGS.items()),
    )


def float32_products() -> Finding:
    """Report the allowed precision of float32 products, and the measured effect of `medium`."""
    import torch

    setting = torch.get_float32_matmul_precision()
    error, ratio = measure_medium_products()
    detail = (
        f"set to {setting!r}; 'medium' takes {ratio:.2f} times the time of 'highest' here, "
        f"with a relative error of {error:.0e}"
    )
    if setting == "highest" and error < FLOAT32_TOLERANCE and ratio < 0.9:
        return Finding(
            name="float32 products",
            status="note",
            detail=f"{detail}: 'medium' chooses another library for the same float32 arithmetic on this processor",
            remedy="`prune`, `pretrain` and `bench` do so by themselves; elsewhere call "
            "torch.set_float32_matmul_precision('medium')",
        )
    if setting != "highest" and error >= FLOAT32_TOLERANCE:
        return Finding(
            name="float32 products",
            status="note",
            detail=f"{detail}: this processor rounds to bfloat16",
            remedy="torch.set_float32_matmul_precision('highest') where proofs in float32 are wanted",
        )
    return Finding(name="float32 products", status="ok", detail=detail)


def bfloat16_convolutions() -> Finding:
    """Check by a measurement that bfloat16 convolutions of few channels are right."""
    from secateur.nn.narrow_convolution import narrow_convolution_error

    error = narrow_convolution_error()
    detail = f"groups of 12 channels have a relative error of {error:.0e} in bfloat16"
    if error < BFLOAT16_TOLERANCE:
        return Finding(name="bfloat16 convolutions", status="ok", detail=detail)
    return Finding(
        name="bfloat16 convolutions",
        status="note",
        detail=f"{detail}: with AMX, oneDNN computes convolutions of 2 to 14 channels per group wrongly, unsaid",
        remedy="models that secateur loads or makes compute them in float32; elsewhere set "
        "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 before starting",
    )


def measure_medium_products() -> tuple[float, float]:
    """Return the relative error of a float32 product at `medium`, and the time relative to `highest`."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # 768 is the width of a Base model.
    left_matrix, right_matrix = (torch.randn(768, 768, generator=generator) for _ in range(2))
    reference = left_matrix.double() @ right_matrix.double()
    previous_precision, error, best_seconds = torch.get_float32_matmul_precision(), {}, {}
    try:
        for setting in ("highest", "medium"):
            torch.set_float32_matmul_precision(setting)
            product = left_matrix @ right_matrix  # the first one warms up
            error[setting] = float((product.double() - reference).norm() / reference.norm())
            times = []
            for _ in range(7):
                start_time = time.perf_counter()
                torch.matmul(left_matrix, right_matrix)
                times.append(time.perf_counter() - start_time)
            best_seconds[setting] = min(times)
    finally:
        torch.set_float32_matmul_precision(previous_precision)
    return error["medium"], best_seconds["medium"] / best_seconds["highest"]
