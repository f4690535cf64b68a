"""TensorBoard shows what metrics.jsonl says, and is missed before anything is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_toy import Toy, train

from secateur.engine.tensorboard import flatten_numbers
from secateur.errors import ConfigError


class Writer:
    """A stand-in for torch's `SummaryWriter` that keeps what it is given."""

    instances: list[Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.is_closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        Writer.instances.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    Writer.instances = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return Writer.instances


def test_every_logged_number_is_shown_at_its_step(tmp_path: Path, writers: list[Writer]) -> None:
    train(Toy(dropout=0.0), tmp_path, tensorboard=True)
    expected: list[tuple[str, float, int]] = []
    for name in ("metrics.jsonl", "timings.jsonl"):
        for line in map(json.loads, (tmp_path / name).read_text().splitlines()):
            flat: dict[str, Any] = {f"validation/{k}": v for k, v in line.pop("validation", {}).items()} | line
            step = flat.pop("step")
            expected += [(k, v, step) for k, v in flat.items() if k != "phase"]
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard" / "learn")
    assert writer.is_closed
    displayed = {(name, step): value for name, value, step in writer.scalars}
    assert displayed == {(name, step): pytest.approx(value, abs=1e-6) for name, value, step in expected}


def test_a_resumed_phase_drops_what_was_shown_beyond_its_checkpoint(tmp_path: Path, writers: list[Writer]) -> None:
    train(Toy(dropout=0.0), tmp_path, tensorboard=True)
    (tmp_path / "checkpoints/learn-0000012").rename(tmp_path / "gone")
    train(Toy(dropout=0.0), tmp_path, tensorboard=True, resume=True)
    assert [writer.purge_step for writer in writers] == [1, 10]
    assert {step for _, _, step in writers[1].scalars} == {10, 12}


def test_nothing_is_imported_or_written_unless_asked_for(tmp_path: Path, writers: list[Writer]) -> None:
    train(Toy(dropout=0.0), tmp_path)
    assert not writers


def test_without_the_package_it_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"needs the package `tensorboard`.*`pip install 'secateur\[tensorboard\]'"):
        train(Toy(dropout=0.0), tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_nested_numbers_are_named_by_their_path_and_the_rest_is_left_out() -> None:
    values = {"a": 1, "b": {"c": [2.5, None]}, "d": "text", "e": {"f": {"g": True}}}
    assert list(flatten_numbers(values)) == [("a", 1.0), ("b/c/0", 2.5), ("e/f/g", 1.0)]


def test_the_package_itself_reads_back_what_was_shown(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Toy(dropout=0.0), tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "learn"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [(line["step"], pytest.approx(line["loss"])) for line in lines if "loss" in line]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected
