"""`secateur bench`: figures of every model in both forms, and one sentence for a mistake before measuring."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import write_teacher

from secateur.benchmarking import bench
from secateur.benchmarking.bench import FORMS
from secateur.cli.main import main
from secateur.cli.verb import BAD_INPUT
from secateur.errors import ConfigError, ModelError
from secateur.hf.declare import declare
from secateur.records.bench_record import BenchRecord, BenchRow
from secateur.records.environment import Environment
from secateur.surgery import load_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights, and the config of another."""
    root = tmp_path_factory.mktemp("bench")
    write_teacher(root / "small", "hubert", "base")
    write_teacher(root / "whole", "wavlm", "large")
    (root / "shape").mkdir()
    shutil.copy(root / "whole" / "config.json", root / "shape" / "config.json")
    (root / "shape" / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    return root


#: Of the blocks of an encoder that hears samples, in the order of the data.
KINDS = ("front end", "projection", "positional conv", "attention", "feed-forward")


def words(models: Path, *extra_fields: str) -> list[str]:
    return ["bench", str(models / "small"), "--seconds", "0.4", "--repeats", "2", *extra_fields]


def test_every_model_in_both_forms(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    extra_fields = ("--against", str(models / "shape"), "--batch", "1", "2", "--no-memory", "--out", str(out))
    assert main(words(models, *extra_fields)) == 0
    displayed = capsys.readouterr().out
    assert "random" in displayed
    assert "Seconds of audio per second: throughput of the whole batch." in displayed
    record = BenchRecord.read(out)
    rows = record.rows
    assert [(Path(row.model).name, row.form, row.batch) for row in rows] == [
        (name, form, batch) for batch in (1, 2) for name in ("shape", "small") for form in FORMS
    ]
    assert rows[0].ratio == 1.0
    assert [row.sample_rate for row in rows] == [8000, 8000, 16_000, 16_000] * 2
    assert rows[0].name == "/".join((models / "shape").parts[-2:])
    for row in rows:
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
        # One utterance waits for the whole batch; the throughput is that of all its utterances.
        assert row.real_time_factor == pytest.approx(row.median_ms / 1e3 / 0.4)
        assert row.throughput == pytest.approx(row.batch / row.real_time_factor)
        assert list(row.blocks_ms) == [*KINDS, "rest"]
        assert all(row.blocks_ms[name] > 0 for name in KINDS)
    assert record.environment.malloc


def test_numbers_of_threads_are_measured_one_after_the_other(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setattr(bench, "usable_cores", lambda: 2)
    used: list[int] = []
    forward = bench._forward
    monkeypatch.setattr(bench, "_forward", lambda *given: used.append(torch.get_num_threads()) or forward(*given))
    config = bench.BenchConfig(models=(str(models / "shape"),), seconds=(0.1, 0.2), threads=(2, 1), repeats=1)
    rates = {"sample_rates": bench._check_sample_rates(config)}
    rows = BenchRecord.from_dict(bench._measure_time(asdict(config) | rates)).rows
    assert [(row.threads, row.seconds) for row in rows[:: len(FORMS)]] == [(2, 0.1), (2, 0.2), (1, 0.1), (1, 0.2)]
    assert used == sorted(used, reverse=True)
    assert set(used) == {1, 2}


def test_seconds_of_audio_are_at_the_rate_of_the_model(models: Path) -> None:
    structure = declare(load_config(models / "shape"))
    assert bench.make_audio(structure, 8000, 0.5, 2, "fp32").shape == (2, 4000)
    with pytest.raises(ConfigError, match=r"seconds: got 0.006, allowed is at least 0.00875: .* needs 70 samples"):
        bench._check_sample_rates(bench.BenchConfig(models=(str(models / "shape" / "config.json"),), seconds=(0.006,)))


def test_models_are_named_by_as_much_of_their_paths_as_tells_them_apart() -> None:
    assert bench.short_names(["runs/a/model", "org/base"]) == {"runs/a/model": "a/model", "org/base": "org/base"}
    longer = ["x/a/model", "y/a/model"]
    assert list(bench.short_names(longer).values()) == longer


def test_the_model_of_a_run_is_measured_against_its_teacher_and_its_report_shows_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(config: bench.BenchConfig, job: dict[str, Any]) -> dict[str, Any]:
        case: dict[str, Any] = {"form": FORMS[0], "weights": "loaded", "seconds": 1.0, "batch": 1, "dtype": "fp32"}
        times: dict[str, Any] = {"threads": 1, "median_ms": 2.0, "low_ms": 1.0, "high_ms": 3.0, "ratio": 1.0}
        rates: dict[str, Any] = {"real_time_factor": 0.002, "throughput": 500.0, "blocks_ms": {"attention": 2.0}}
        rows = [BenchRow(model=name, name=Path(name).name, **case, **times, **rates) for name in config.models]
        return BenchRecord(rows=tuple(rows), environment=Environment.current()).to_dict()

    monkeypatch.setattr(bench, "_measure", measure)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"model: {models / 'whole'}\n")
    assert main(["bench", str(run)]) == BAD_INPUT
    assert "has no model/ yet" in capsys.readouterr().err
    shutil.copytree(models / "small", run / "model")
    (run / "record.json").write_text('{"format": 1, "kind": "prune"}')
    assert main(["bench", str(run), "--no-memory"]) == 0
    record = BenchRecord.read(run / "bench.json")
    assert [row.model for row in record.rows] == [str(models / "whole"), str(run / "model")]
    assert 'id="bench"' in (run / "report.html").read_text()
    (run / "bench.json").unlink()
    assert main(["bench", str(run), "--no-memory", "--out", str(tmp_path / "elsewhere.json")]) == 0
    assert BenchRecord.read(tmp_path / "elsewhere.json") == record
    assert not (run / "bench.json").exists()


def test_peak_memory(models: Path) -> None:
    small, forms = str(models / "small"), FORMS[1:]  # each form takes one more process
    record = bench.bench(bench.BenchConfig(models=(small,), forms=forms, seconds=(0.4,), repeats=1, tuned=False))
    assert all(0 < row.peak_mib < 1000 for row in record.rows)
    assert not record.environment.malloc
    assert record.environment.float32_products == "highest"


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
        (["--threads", "1", "1000"], "threads: got 1000, allowed is 1 to"),
        (["--threads", "1", "1"], "threads: got 1 twice"),
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

    monkeypatch.setattr(bench, "_measure", measure)
    assert main(words(models, *(word.replace("@", str(models)) for word in more))) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_that_cannot_be_loaded_is_named(models: Path) -> None:
    damaged = models / "broken"
    shutil.copytree(models / "small", damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    config = bench.BenchConfig(models=(str(damaged),), seconds=(0.4,))
    with pytest.raises(ModelError, match=r"The weights of .*broken.* cannot be loaded"):
        bench._measure_time(asdict(config) | {"sample_rates": bench._check_sample_rates(config)})
