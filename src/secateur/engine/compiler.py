"""A check that `torch.compile` works on the current machine, for use before training."""

from __future__ import annotations

import time

import torch

from secateur.engine.distributed import process
from secateur.errors import ConfigError


def check_compiler() -> None:
    """Compile and run a small function on the device of the process; takes seconds.

    Raises:
        ConfigError: Compilation fails, in most cases because there is no C++ compiler (on a GPU: no Triton).
    """
    unique_constant = float(time.time_ns())  # a new constant, so that no compiled result is found in a cache
    try:
        torch.compile(lambda x: x.sin() * unique_constant)(torch.ones(2, device=process().device))
    except Exception as error:  # the class depends on the backend and on the missing program
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"compile: torch.compile does not work on this machine ({first_line[:200]}): install the missing program, "
            "or set compile to false."
        ) from None
