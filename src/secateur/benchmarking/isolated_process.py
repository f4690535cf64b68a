"""Measuring in a separate process, since glibc's malloc and thread counts are set when a process starts.

The process reads a job from its standard input, and writes lines of JSON to its standard output: its progress, and
finally the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from secateur.benchmarking.process_settings import MALLOC_SETTINGS, tune_products
from secateur.errors import SecateurError

#: Environment variables of the process; values already set in the environment take precedence.
PROCESS_SETTINGS = {
    # Threads that wait sleep rather than spin, as under the command line: beside another busy process spinning makes
    # everything many times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN keeps the kernels of the last 1024 shapes that it met and makes others anew each time, which takes longer
    # than running them: models that take turns must not push each other's out.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "65536",
}

#: Called with (completed steps, total steps).
StepCallback = Callable[[int, int], None]


def measure_in_subprocess(
    module: str, job: Mapping[str, Any], *, threads: int | None, tuned: bool, on_step: StepCallback | None = None
) -> dict[str, Any]:
    """Run a measuring module in a separate process and return the result.

    Args:
        module: Module that calls `serve`, run by ``python -m``.
        job: Argument of the measuring function, as plain JSON.
        threads: Number of CPU threads; None leaves torch's default.
        tuned: Keep large buffers in the process, and let float32 products take the faster library where that is as
            exact; else leave the process as it is.
        on_step: Called with the progress.

    Raises:
        SecateurError: The process failed or was terminated.
    """
    process_environment = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    # Later entries win: variables of the user over `PROCESS_SETTINGS`, and the settings of malloc over both.
    process_environment = PROCESS_SETTINGS | process_environment | (MALLOC_SETTINGS if tuned else {})
    if threads is not None:
        process_environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # -P: modules in the current folder must not be imported.
    command = [sys.executable, "-P", "-W", "ignore", "-m", module]
    message: dict[str, Any] = {}
    with (
        # A file, since a full pipe that is not read would block the process.
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as error_output,
        subprocess.Popen(
            command,
            env=process_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=error_output,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"job": job, "threads": threads, "tuned": tuned}))
            process.stdin.close()
            for line in process.stdout:
                # The last message is the result or the error.
                message = _parse_message(line)
                if "step" in message and on_step is not None:
                    on_step(*message["step"])
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        error_output.seek(0)
        last_line = (error_output.read().strip().splitlines() or ["no error output"])[-1]
    if code < 0:  # -9: terminated by signal 9
        raise SecateurError(
            f"The measuring process was terminated by signal {-code}; 9 most often means that memory ran out: "
            "measure shorter audio or smaller batches."
        )
    if "error" in message:
        raise SecateurError(message["error"])
    if "found" not in message:
        raise SecateurError(f"The measuring process failed: {last_line}")
    return message["found"]  # type: ignore[no-any-return]


def serve(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Run the job in the standard input under the settings that the job names; return the process's exit code."""
    import torch

    request = json.loads(sys.stdin.read())
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    try:
        if request["tuned"]:
            tune_products()
        response: dict[str, Any] = {"found": measure(request["job"])}
    except SecateurError as error:
        response = {"error": str(error)}
    except Exception as error:  # such as running out of memory; the parent raises the message
        response = {"error": f"Measuring failed: {' '.join(str(error).split())[:300] or type(error).__name__}"}
    _write_message(response)
    return 0


def report_step(completed_steps: int, steps: int) -> None:
    """Report progress to the waiting process."""
    _write_message({"step": [completed_steps, steps]})


def _write_message(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _parse_message(line: str) -> dict[str, Any]:
    """Parse a line of the process; a line that a library printed gives an empty message."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
