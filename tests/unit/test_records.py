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
from secateur.records.bench_record import BenchRecord, BenchRow
from secateur.records.choice import ChoiceRecord, ChooseRecord
from secateur.records.cost_record import Breakdown, CostRecord, ProfileRecord
from secateur.records.environment import Environment
from secateur.records.files import plain, read_json, to_line, write_json
from secateur.records.run import ConstraintRecord, RunRecord, StageRecord, TimeRecord
from secateur.records.verification import Verification, VerificationCheck, VerifyRecord


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


def test_the_environment_names_versions_and_cores_but_neither_host_nor_path() -> None:
    environment = Environment.current()
    assert environment.versions is not None
    assert environment.versions["torch"] == torch.__version__
    assert environment.threads == torch.get_num_threads()
    assert environment.cores == len(os.sched_getaffinity(0))
    text = json.dumps(environment.to_dict())
    host = socket.gethostname()
    assert host not in text or host in str(environment.cpu)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert getpass.getuser() not in text


def test_records_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from secateur.records import bench_record, choice, environment, evaluation, pretraining; "
        "from secateur.records import run, sweep_record; "
        "environment.Environment.current(); print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_run_record_is_read_back_and_written_with_the_same_keys_in_the_same_order(tmp_path: Path) -> None:
    time = TimeRecord(median_ms=2.0, low_ms=1.5, high_ms=3.0, repeats=7, seconds_of_audio=10.0, batch=1, threads=2)
    dense = StageRecord(name="dense", parameters=10, head=0, time=time, loss=0.0, macs=5, samples=16_000)
    constraint = ConstraintRecord(name="macs-whole", dense=10, limit=5.0, verdict=6, counted=5, binding=True)
    record = RunRecord(kind="prune", name="quickstart", recipe={"seed": 0}, constraints=(constraint,), stages=(dense,))
    record.write(tmp_path / "record.json")
    text = (tmp_path / "record.json").read_text()
    assert RunRecord.read(tmp_path / "record.json") == record
    assert json.dumps(RunRecord.read(tmp_path / "record.json").to_dict(), indent=2) + "\n" == text
    assert list(record.to_dict())[:6] == ["format", "kind", "name", "environment", "recipe", "data"]
    assert list(record.to_dict()["stages"][0]) == [
        "name", "parameters", "head", "time", "loss", "macs", "samples",
    ]  # fmt: skip


def test_an_optional_part_is_null_or_an_empty_object_or_left_out_as_its_field_says() -> None:
    record = RunRecord(kind="prune").to_dict()
    assert record["gates"] == record["task"] == record["rounding"] == record["latency"] == {}
    assert record["data"] is None
    assert "folder" not in record
    assert "loss" not in StageRecord(name="dense").to_dict()
    assert CostRecord(parameters=1).to_dict() == {"parameters": 1, "macs": 0}


def test_integers_stay_integers_when_a_record_is_read() -> None:
    data = {"verdict": {"macs": 5}, "counted": {"macs": 4.5}, "rounding": None}
    record = ChoiceRecord.from_dict(data)
    assert isinstance(record.verdict["macs"], int)
    assert record.to_dict()["verdict"] == {"macs": 5}
    assert record.to_dict()["counted"] == {"macs": 4.5}


def test_a_record_of_a_command_has_its_header_before_the_result() -> None:
    check = VerificationCheck(name="bfloat16", holds=False, detail="error 0.5")
    verification = Verification.from_checks([check], [0.0, float("nan")])
    record = VerifyRecord(**verification.fields_of())
    assert list(record.to_dict()) == ["format", "kind", "holds", "proven", "checks", "differences"]
    assert record.to_dict()["differences"] == [0.0, "nan"]
    assert not record.holds
    assert record.is_proven
    assert record.broken == (check,)
    choice = ChoiceRecord(verdict={"macs": 3}, counted={"macs": 2}, binding="macs", moved=1, gated=8)
    choose = ChooseRecord(constraint={"cost": "macs"}, **choice.fields_of(), verification=verification, folder="out")
    assert list(choose.to_dict()) == [
        "format", "kind", "constraint", "verdict", "counted", "binding", "moved", "gated", "notes", "rounding",
        "verification", "folder",
    ]  # fmt: skip
    costs = Breakdown(
        parameters=9, head=0, macs=8, samples=16_000, frames=49, blocks={}, scopes={}, convention="multiply-accumulates"
    )
    profile = ProfileRecord(model_type="wavlm", sample_rate=16_000, **costs.fields_of())
    assert list(profile.to_dict())[:6] == ["format", "kind", "model_type", "sample_rate", "parameters", "head"]
    assert ProfileRecord.from_dict(profile.to_dict()) == profile


def test_old_verifications_without_a_proof_of_their_own_are_proven_where_every_check_holds() -> None:
    assert Verification.from_dict({"holds": True}).is_proven
    assert not Verification.from_dict({"holds": False}).is_proven


def test_a_refusal_names_the_failed_checks_of_the_proof_alone() -> None:
    proof = VerificationCheck(name="parameters", holds=False, detail="3 counted, 4 expected", is_proof=True)
    contract = VerificationCheck(name="bfloat16", holds=False)
    refusal = Verification.from_checks([proof, contract]).refusal
    assert "parameters (3 counted, 4 expected)" in refusal
    assert "bfloat16" not in refusal
    assert Verification.from_checks([contract]).refusal == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r'r\.json: a record is a JSON object with "format": 1; got a list'),
        ({"format": 2}, r'r\.json: a record is a JSON object with "format": 1; got 2'),
        ({"format": 1, "stages": [{"name": "dense", "macs": -1}]}, r"at stages\.0\.macs, .*got '-1'"),
        ({"format": 1, "phases": [{}, {}]}, r"at phases\.0\.name, .*1 more like it"),
    ],
)
def test_a_damaged_record_is_one_clear_sentence(data: object, message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        RunRecord.from_dict(data, path="r.json")


def test_unknown_keys_and_missing_parts_are_read_without_complaint() -> None:
    record = RunRecord.from_dict({"format": 1, "hue": "red", "gates": {}, "environment": {"cpu": "x", "gpu": "y"}})
    assert record.gates is None
    assert record.environment.cpu == "x"


def test_a_bench_row_without_a_measured_peak_has_no_such_key() -> None:
    row = BenchRow(name="cut", seconds=1.0, batch=1, median_ms=2.0, low_ms=1.0, high_ms=3.0)
    assert "peak_mib" not in row.to_dict()
    record = BenchRecord(rows=(row,), config={"repeats": 9})
    assert record.repeats == 9
    assert list(record.to_dict()) == ["format", "kind", "rows", "environment", "config"]
    assert BenchRecord.from_dict(record.to_dict()) == record
