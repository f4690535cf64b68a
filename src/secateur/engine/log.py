"""The log of a run: metrics.jsonl, which is reproducible byte for byte, and timings.jsonl, which is not."""

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
    """Remove the lines of `phase` after `step`, and an incomplete last line, by an atomic replacement of the file.

    Lines of other phases are unchanged.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    # A line without a line end was cut off when the process was killed.
    kept_lines = [line for line in lines if line.endswith(b"\n") and not _is_after(line, phase, step, path)]
    if kept_lines == lines:
        return
    # Replaced in one operation, so that a crash leaves the old file or the new file, never a part.
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
            f"{path}: expected a JSON object with phase and step on each line, got {excerpt!r}. Delete that line, or "
            "the file, then resume."
        ) from None


class Log:
    """The two log files of a phase, open for appending from a given step on.

    Args:
        folder: The run folder.
        phase: The phase, written into each line.
        step: The step that the phase starts or resumes after; later lines are removed.
        is_active: False on ranks that do not write.
        describe_checkpoint: Returns a phrase with the last good checkpoint, for the error if the disk is full.
        tensorboard: Whether to write all numbers to TensorBoard too.
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
                # Unbuffered, so that a written line survives if the process is killed.
                self._handles[name] = (folder / name).open("ab", buffering=0)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Write metrics, which depend on the recipe only and not on time."""
        self._write(METRICS, step, values)
        if self._board is not None:
            self._board.show(step, values)

    def timing(self, step: int, seconds: float) -> None:
        """Write the mean wall-clock seconds of a step since the last line in timings.jsonl."""
        self._write(TIMINGS, step, {"seconds": round(seconds, 6)})
        if self._board is not None:
            self._board.show(step, {"seconds": seconds})

    def sync(self) -> None:
        """Sync all written lines to disk; called before a checkpoint of the same step is written."""
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
                f"{self._describe_checkpoint()}. Free some disk space, then resume."
            ) from error
