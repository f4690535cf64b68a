"""Measuring in a process of its own: glibc's malloc and the number of threads are settled when a process starts.

The process reads a job from its standard input, and writes lines of JSON to its output: how far it is, and at last what
it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from secateur.errors import SecateurError
from secateur.evaluate.settings import MALLOC, tune_products

#: Settings of the process, where the environment does not say otherwise.
SETTINGS = {
    # Threads that wait sleep rather than spin, as under the command line: beside another busy process spinning makes
    # everything many times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN keeps the kernels of the last 1024 shapes that it met and makes others anew each time, which takes longer
    # than running them: models that take turns must not push each other's out.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "65536",
}

#: Told with (steps done, steps in all).
OnStep = Callable[[int, int], None]


def measure_apart(
    module: str, job: Mapping[str, Any], *, threads: int | None, tuned: bool, on_step: OnStep | None = None
) -> dict[str, Any]:
    """What a process of its own measured.

    Args:
        module: Run by ``python -m``; it calls `serve`.
        job: For it, as plain JSON.
        threads: Of the processor; None takes what torch takes.
        tuned: Keep large buffers in the process, and let float32 products take the faster library where that is as
            exact; else leave the process as it is.
        on_step: Told how far it is.

    Raises:
        SecateurError: It failed, or was ended.
    """
    own = {name: value for name, value in os.environ.items() if name not in MALLOC}
    own = SETTINGS | own | (MALLOC if tuned else {})
    if threads is not None:
        own |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # -P: what lies in the current folder is no part of the measuring.
    command = [sys.executable, "-P", "-W", "ignore", "-m", module]
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"job": job, "threads": threads, "tuned": tuned}))
            process.stdin.close()
            for line in process.stdout:
                found = _parsed(line)
                if "step" in found and on_step is not None:
                    on_step(*found["step"])
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        said.seek(0)
        last = (said.read().strip().splitlines() or ["without a word"])[-1]
    if code < 0:
        raise SecateurError(
            f"The measuring process was ended by signal {-code}; 9 most often means that memory ran out: "
            "measure shorter audio or smaller batches."
        )
    if "error" in found:
        raise SecateurError(found["error"])
    if "found" not in found:
        raise SecateurError(f"The measuring process failed: {last}")
    return found["found"]  # type: ignore[no-any-return]


def serve(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Do the job that stands in the standard input, under the settings that it names; the process's exit code."""
    import torch

    asked = json.loads(sys.stdin.read())
    if asked["threads"] is not None:
        torch.set_num_threads(asked["threads"])
    try:
        if asked["tuned"]:
            tune_products()
        told: dict[str, Any] = {"found": measure(asked["job"])}
    except SecateurError as error:
        told = {"error": str(error)}
    except Exception as error:  # memory that cannot be had, for one; the parent says it in a sentence
        told = {"error": f"Measuring failed: {' '.join(str(error).split())[:300] or type(error).__name__}"}
    _tell(told)
    return 0


def tell_step(done: int, steps: int) -> None:
    """Tell the process that waits how far this one is."""
    _tell({"step": [done, steps]})


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _parsed(line: str) -> dict[str, Any]:
    """A line of the process; empty for what a library printed."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
