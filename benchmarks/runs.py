"""Runs of `secateur prune` for benchmarks: each in a process of its own with one thread, one line of JSON a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "2147483648",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "TRANSFORMERS_VERBOSITY": "error",
}


def prune_alone(recipe: str, overrides: dict[str, Any], out: Path, *, resume: bool = False) -> dict[str, Any]:
    """The record of a run in a process of its own, with one thread; unless it is resumed, its folder is emptied."""
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    words = {"recipe": recipe, "overrides": overrides | {"out": str(out)}, "resume": resume}
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(words)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{out.name}: {done.stderr[-2000:]}")
    record: dict[str, Any] = json.loads((out / "record.json").read_text())
    return record


def results_in(out: Path) -> list[dict[str, Any]]:
    """The results that a file has, one a line; none where there is no file yet."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def run_missing(
    cases: Sequence[dict[str, Any]], run: Callable[[dict[str, Any]], dict[str, Any]], out: Path, *, jobs: int = 2
) -> list[dict[str, Any]]:
    """Run the cases whose fields no result has yet, some at a time, and append each result to the file.

    Returns:
        All that is in the file then.

    Raises:
        RuntimeError: A run failed; the others were done all the same.
    """
    finished_results = results_in(out)
    missing = [case for case in cases if not any(case.items() <= result.items() for result in finished_results)]
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run, case) for case in missing]):
            try:
                line = json.dumps(future.result())
            except RuntimeError as error:
                failed.append(str(error))
                continue
            with out.open("a") as handle:
                handle.write(line + "\n")
    if failed:
        raise RuntimeError("\n\n".join(failed))
    return results_in(out)


def main(recipe: str, overrides: dict[str, Any], resume: bool) -> None:
    """What the process of one run does."""
    import torch

    import secateur

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # float32 accuracy here, twice the speed; the same for every run
    secateur.prune(recipe, overrides=overrides, resume=resume)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
