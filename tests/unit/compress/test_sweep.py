"""A sweep is its runs: every combination, each in its own folder, and one record of them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pruning_toy import write_teacher, write_wavs

from secateur.cli.main import main
from secateur.compress.sweep import combinations, folder_of
from secateur.errors import ConfigError, SecateurError
from secateur.pipeline import sweep
from secateur.records.run import RunRecord
from secateur.records.sweep_record import SweepRecord


def test_every_combination_is_there_once_the_last_field_fastest() -> None:
    runs = combinations({"target": [0.9, 0.5], "seed": [0, 1]})
    assert [folder_of(values) for values in runs] == [
        "target=0.9,seed=0",
        "target=0.9,seed=1",
        "target=0.5,seed=0",
        "target=0.5,seed=1",
    ]


def test_a_folder_is_named_without_what_paths_take_amiss() -> None:
    assert folder_of({"model": "a/b c", "choose": {"kind": "score"}}) == "model=a_b_c,choose=__kind____score__"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"target": []}, "--sweep target: got no values"),
        ({"seed": [1, 1]}, "got a value twice in 1, 1"),
        ({"out": ["a"]}, "every run has a folder of its own"),
        ({"seed": [0], "model": ["a/b", "a_b"]}, "--sweep model: runs of a/b and of a_b would share the folder"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        combinations(grid)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    fields = {
        "model": str(write_teacher(folder / "teacher", "hubert", "base")),
        "data": {"kind": "folder", "path": str(write_wavs(folder / "speech"))},
        "validation": {"seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.4, "shortest": 0.1},
        "choose": {"kind": "score", "kinds": ["channels", "heads", "units"]},
        "distill": {"pairing": {"kind": "fixed", "layers": [0, 3]}},
        "recover": {"steps": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(fields))  # JSON is YAML
    return path


def test_a_sweep_ends_in_one_record_and_goes_on_where_it_stopped(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    words = ["prune", str(recipe), "--sweep", "target=0.9,0.7", "--sweep", "seed=0,1", "--out", str(out)]
    assert main(words) == 0
    assert "target" in capsys.readouterr().out
    record = SweepRecord.read(out / "sweep.json")
    assert [row.values for row in record.rows] == [
        {"target": target, "seed": seed} for target in (0.9, 0.7) for seed in (0, 1)
    ]
    for row in record.rows:
        run_record = RunRecord.read(out / row.folder / "record.json")
        assert row.kept.parameters == run_record.stages[-1].parameters < row.dense.parameters
        assert row.kept.score == run_record.stages[-1].loss
    (out / "sweep.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "sweep.html").is_file()

    assert main(words) == 2
    assert "is in use: add --resume" in capsys.readouterr().err
    full_run = (out / "target=0.9,seed=0" / "record.json").stat().st_mtime_ns
    (out / "target=0.7,seed=1" / "record.json").unlink()
    assert main([*words, "--resume"]) == 0
    assert (out / "target=0.9,seed=0" / "record.json").stat().st_mtime_ns == full_run

    assert main([*words, "--resume", "--recover.steps", "2"]) == 2
    assert "was started with another recipe (see its recipe.yaml; other now: recover.steps)" in capsys.readouterr().err


def test_a_mistake_in_one_combination_is_told_before_any_runs(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"target: expected a number > 0 and <= 1 or null, got 1\.5"):
        sweep(recipe, grid={"target": [0.9, 1.5]}, overrides={"out": str(tmp_path / "sweep")})
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(ConfigError, match="given by --target too"):
        sweep(recipe, grid={"target": [0.9]}, overrides={"target": 0.5})


def test_a_run_that_cannot_be_done_leaves_the_others(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    words = ["prune", str(recipe), "--sweep", "target=0.001,0.9", "--out", str(out)]
    assert main(words) == 2
    reported = capsys.readouterr()
    assert "target=0.001 failed:" in reported.err
    assert "0.9" in reported.out
    record = SweepRecord.read(out / "sweep.json")
    assert [row.values for row in record.rows] == [{"target": 0.9}]
    assert [run.values for run in record.failed] == [{"target": 0.001}]
    assert "Failed: target" in (out / "sweep.html").read_text()
    with pytest.raises(SecateurError):
        sweep(recipe, grid={"target": [0.001, 0.002]}, overrides={"out": str(tmp_path / "none")})


def test_a_sweep_into_a_file_is_refused(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="is a file: give another --out"):
        sweep(recipe, grid={"target": [0.9]}, overrides={"out": str(recipe)})


@pytest.mark.parametrize("text", ["target", "=1,2", "target=[1"])
def test_a_sweep_that_cannot_be_read_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--sweep", text]) == 2
    assert "--sweep" in capsys.readouterr().err
