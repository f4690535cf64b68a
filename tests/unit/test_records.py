"""Records are whole or absent, hold plain JSON, and say what they ran on without saying where."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.errors import SecateurError
from secateur.records.files import append_jsonl, environment, plain, read_json, to_line, write_json


@dataclass(frozen=True)
class Inner:
    path: Path
    sizes: tuple[int, ...]


def test_a_record_reads_back_as_plain_json(tmp_path: Path) -> None:
    value = {
        "inner": Inner(path=Path("a/b"), sizes=(1, 2)), 3: np.float64(0.1), "array": np.arange(3),
        "tensor": torch.tensor(2.0), "set": {"b", "a"}, "none": None, "yes": True, "large": 2**60,
    }  # fmt: skip
    write_json(tmp_path / "r.json", value)
    assert read_json(tmp_path / "r.json") == {
        "inner": {"path": "a/b", "sizes": [1, 2]}, "3": 0.1, "array": [0, 1, 2],
        "tensor": 2.0, "set": ["a", "b"], "none": None, "yes": True, "large": 2**60,
    }  # fmt: skip


def test_numbers_that_are_not_finite_stay_valid_json_and_readable() -> None:
    line = to_line([float("nan"), float("inf"), float("-inf")])
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert np.isnan(float(strict[0]))
    assert [float(text) for text in strict[1:]] == [float("inf"), float("-inf")]


def test_a_line_is_the_same_whatever_the_order_of_the_keys() -> None:
    assert to_line({"b": 1, "a": 2}) == to_line({"a": 2, "b": 1}) == '{"a": 2, "b": 1}\n'


def test_an_unknown_object_is_refused_and_not_turned_into_its_repr() -> None:
    with pytest.raises(TypeError, match="object cannot go into a record"):
        plain(object())


def test_a_write_that_fails_leaves_the_old_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "r.json", 1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "r.json", 2)
    assert read_json(tmp_path / "r.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_reading_what_is_not_there_or_not_json_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="there is no such file"):
        read_json(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(SecateurError, match="not a JSON record"):
        read_json(tmp_path / "r.json")


def test_lines_are_appended(tmp_path: Path) -> None:
    for step in range(3):
        append_jsonl(tmp_path / "m.jsonl", {"step": step})
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_the_environment_names_versions_and_cores_but_neither_host_nor_path() -> None:
    environment_record = environment()
    assert environment_record["versions"]["torch"] == torch.__version__
    assert environment_record["threads"] == torch.get_num_threads()
    assert environment_record["cores"] == len(os.sched_getaffinity(0))
    text = json.dumps(plain(environment_record))
    host = socket.gethostname()
    assert host not in text or host in environment_record["cpu"]
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert getpass.getuser() not in text


def test_records_load_neither_torch_nor_transformers() -> None:
    code = "import sys, secateur.records as r; r.environment(); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
