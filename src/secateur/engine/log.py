"""The log of a run: metrics.jsonl, which repeats byte for byte, and timings.jsonl, which does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from secateur.engine.tensorboard import TensorBoardWriter
from secateur.errors import CheckpointError
from secateur.records.files import to_line

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"


def truncate(path: Path, *, phase: str, step: int) -> None:
    """Drop the lines of `phase` after `step`, and a last line that was cut short, in one atomic replacement.

    Lines of other phases stay as they are.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept_lines = [line for line in lines if line.endswith(b"\n") and not _is_after(line, phase, step, path)]
    if kept_lines == lines:
        return
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as handle:
        handle.writelines(kept_lines)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _is_after(line: bytes, phase: str, step: int, path: Path) -> bool:
    try:
        record = json.loads(line)
        return bool(record["phase"] == phase and record["step"] > step)
    except (ValueError, KeyError, TypeError):
        excerpt = line[:40].decode(errors="replace").strip()
        raise CheckpointError(
            f"{path}: a line is not one of ours ({excerpt!r}). Delete that line, or the file, then resume."
        ) from None


class Log:
    """The two log files of one phase, open for appending from a given step on.

    Args:
        folder: the run folder.
        phase: the phase written into each line.
        step: the step the phase starts or resumes after; lines beyond it are dropped.
        active: False on ranks that do not write.
        last_good: a phrase that names the last good checkpoint, for the error when the disk is full.
        tensorboard: mirror all figures there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        phase: str,
        step: int,
        is_active: bool,
        describe_checkpoint: Callable[[], str],
        tensorboard: bool = False,
    ) -> None:
        self.phase = phase
        self._board = TensorBoardWriter(folder, phase=phase, step=step) if tensorboard and is_active else None
        self._describe_checkpoint = describe_checkpoint
        self._handles: dict[str, BinaryIO] = {}
        if is_active:
            for name in (METRICS, TIMINGS):
                truncate(folder / name, phase=phase, step=step)
                self._handles[name] = (folder / name).open("ab", buffering=0)  # a line survives kill -9

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Write figures that depend on the recipe alone, never on the machine's clock."""
        self._write(METRICS, step, values)
        if self._board is not None:
            self._board.show(step, values)

    def timing(self, step: int, seconds: float) -> None:
        """Write the mean wall-clock seconds of a step since the last such line."""
        self._write(TIMINGS, step, {"seconds": round(seconds, 6)})
        if self._board is not None:
            self._board.show(step, {"seconds": seconds})

    def sync(self) -> None:
        """Force what was written to the disk; called before a checkpoint claims its step."""
        for handle in self._handles.values():
            os.fsync(handle.fileno())

    def close(self) -> None:
        """Close all files."""
        if self._board is not None:
            self._board.close()
        for handle in self._handles.values():
            handle.close()

    def _write(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        if name not in self._handles:
            return
        line = to_line({"phase": self.phase, "step": step, **values})
        try:
            self._handles[name].write(line.encode())
        except OSError as error:
            raise CheckpointError(
                f"{name} could not be written at step {step} ({error.strerror or error}); "
                f"{self._describe_checkpoint()}. Free some space, then resume."
            ) from error
