"""Whether `torch.compile` works here, found out before anything is trained."""

from __future__ import annotations

import time

import torch

from secateur.engine.distributed import process
from secateur.errors import ConfigError


def check_compiler() -> None:
    """Compile and run a trifle on the device of this process; takes seconds.

    Raises:
        ConfigError: It does not work, most often because no C++ compiler (on a GPU: no Triton) is there.
    """
    unique_constant = float(time.time_ns())  # a constant that nothing has been compiled for, so that no cache answers
    try:
        torch.compile(lambda x: x.sin() * unique_constant)(torch.ones(2, device=process().device))
    except Exception as error:  # of many kinds, by backend and by what is missing
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"compile: torch.compile does not work here ({first_line[:200]}): install what it names, or set compile to "
            "false."
        ) from None
