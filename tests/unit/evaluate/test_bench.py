"""`secateur bench`: figures of every model in both forms, and one sentence for a mistake before measuring."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pruning_toy import write_teacher

from secateur.cli import BAD_INPUT, main
from secateur.evaluate.bench import BLOCKS, FORMS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights, and the config of another."""
    root = tmp_path_factory.mktemp("bench")
    write_teacher(root / "small", "hubert", "base")
    write_teacher(root / "whole", "wavlm", "large")
    (root / "shape").mkdir()
    shutil.copy(root / "whole" / "config.json", root / "shape" / "config.json")
    return root


def words(models: Path, *more: str) -> list[str]:
    return ["bench", str(models / "small"), "--seconds", "0.4", "--repeats", "2", *more]


def test_every_model_in_both_forms(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    more = ("--against", str(models / "shape"), "--batch", "1", "2", "--no-memory", "--out", str(out))
    assert main(words(models, *more)) == 0
    shown = capsys.readouterr().out
    assert "random" in shown
    record = json.loads(out.read_text())
    rows = record["rows"]
    assert [(Path(row["model"]).name, row["form"], row["batch"]) for row in rows] == [
        (name, form, batch) for batch in (1, 2) for name in ("shape", "small") for form in FORMS
    ]
    assert rows[0]["ratio"] == 1.0
    for row in rows:
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        assert row["real_time_factor"] == pytest.approx(row["median_ms"] / 1e3 / (0.4 * row["batch"]))
        assert set(row["blocks_ms"]) == {*BLOCKS.values(), "rest"}
        assert all(row["blocks_ms"][name] > 0 for name in BLOCKS.values())
    assert record["environment"]["malloc"]


def test_peak_memory(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(models, "--json", "--default-settings")) == 0
    record = json.loads(capsys.readouterr().out)
    assert all(0 < row["peak_mib"] < 1000 for row in record["rows"])
    assert not record["environment"]["malloc"]
    assert record["environment"]["float32_products"] == "highest"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seconds", "0"], "seconds: got 0, allowed is above 0"),
        (["--seconds", "nan"], "seconds: got nan, allowed is above 0"),
        (["--seconds", "1e300"], "at most 3600"),
        (["--seconds", "0.001"], "one frame of"),
        (["--batch", "-1"], "batch: got -1"),
        (["--dtype", "fp16"], "dtype: got 'fp16', allowed are fp32, bf16"),
        (["--dtype", "fp32", "fp32"], "dtype: got fp32 twice"),
        (["--threads", "1000"], "threads: got 1000, allowed is 1 to"),
        (["--out", "no/such/folder/bench.json"], "allowed is a file in a folder that exists"),
        (["--against", "@/small/"], "twice, allowed is once"),
        (["--against", "@/nothing"], "no config.json"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(
    models: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr("secateur.evaluate.bench._measure", measure)
    assert main(words(models, *(word.replace("@", str(models)) for word in more))) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_that_cannot_be_loaded_is_named(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = models / "broken"
    shutil.copytree(models / "small", broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    assert main(["bench", str(broken), "--seconds", "0.4", "--no-memory"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "weights of" in error
    assert error.count("\n") == 1
