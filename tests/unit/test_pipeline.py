"""The verbs as functions: what goes in, what comes back, and what is there afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from prune_job import recipe
from pruning_toy import write_teacher, write_wavs
from transformers import AutoModel

from secateur import config as configs
from secateur import pipeline
from secateur.compress.config import PruneConfig
from secateur.compress.run_context import prepare_run
from secateur.engine import Progress
from secateur.errors import ConfigError, DataError, TargetError
from secateur.records.run import RunRecord
from secateur.records.verification import Verification
from secateur.structure import Selection

CHANGES: dict[str, Any] = {"learn": {"steps": 2, "log_every": 1}, "recover": {"steps": 1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline")
    write_wavs(root / "speech")
    write_teacher(root / "teacher", ending="ForCTC")
    return root


@pytest.fixture(scope="module")
def done(root: Path) -> tuple[RunRecord, list[Progress]]:
    """The record of a run from a config, and what it told on its way."""
    progress_events: list[Progress] = []
    config = configs.load(recipe(root, root / "run", **CHANGES), PruneConfig)
    return pipeline.prune(config, on_progress=progress_events.append), progress_events


def test_progress_is_told_after_every_step(done: tuple[RunRecord, list[Progress]]) -> None:
    assert [(item.phase, item.step, item.steps) for item in done[1]] == [
        ("learn", 1, 2),
        ("learn", 2, 2),
        ("recover", 1, 1),
    ]
    assert all("loss" in item.parts for item in done[1])


def test_the_record_agrees_with_the_files(root: Path, done: tuple[RunRecord, list[Progress]]) -> None:
    record, folder = done[0], root / "run"
    model = AutoModel.from_pretrained(folder / "model")
    assert record.stages[2].parameters == sum(value.numel() for value in model.parameters())
    (constraint,) = record.constraints
    assert constraint.counted == record.stages[1].parameters <= constraint.limit
    selection = Selection.load(folder / "selection.json")
    for axis in record.axes:
        assert axis.kept == len(selection.axes[axis.name])
    gates = record.gates
    assert sum(kind.gates for kind in gates.kinds.values()) == sum(sum(bins) for bins in gates.histogram.values())
    assert RunRecord.read(folder / "record.json") == replace(record, folder=None)


def test_the_resolved_recipe_in_the_folder_is_the_one_that_was_run(root: Path, done: Any) -> None:
    written_config = configs.load(root / "run" / "recipe.yaml", PruneConfig)
    assert written_config == configs.load(recipe(root, root / "run", **CHANGES), PruneConfig)


def test_the_task_head_is_kept(root: Path, done: Any) -> None:
    from transformers import AutoModelForCTC

    small, dense = (AutoModelForCTC.from_pretrained(root / path) for path in ("run/model", "teacher"))
    assert torch.equal(small.lm_head.weight, dense.lm_head.weight)


def test_a_score_needs_no_learn_phase(root: Path, tmp_path: Path) -> None:
    record = pipeline.prune(
        recipe(root, tmp_path / "run", **CHANGES),
        overrides={"choose": {"kind": "score", "score": "first", "round_to": {"units": 5}}, "recover.steps": 0},
    )
    assert record.phases == ()
    assert record.rounding.multiples == {"units": 5}
    assert {axis.kept % 5 for axis in record.axes if axis.kind == "units"} == {0}
    assert "feed-forward units" in (tmp_path / "run" / "report.html").read_text().partition("Cost of rounding")[2]
    assert not (tmp_path / "run" / "learned").exists()
    for name, units in Selection.load(tmp_path / "run" / "selection.json").axes.items():
        assert units == tuple(range(len(units))), name


def test_a_student_that_shrinks_while_it_learns_is_chosen_from_like_any_other(root: Path, tmp_path: Path) -> None:
    freeze = {"below": 0.4, "patience": 1, "every": 0.2, "worth": 0.01, "shrink": True}
    learn = {"steps": 8, "log_every": 1, "gate_learning_rate": 0.5, "freeze": freeze}
    record = pipeline.prune(recipe(root, tmp_path / "run", learn=learn, recover={"steps": 1}, target=0.5))
    freezing = record.gates.freezing
    assert record.verification.proven
    learned = AutoModel.from_pretrained(tmp_path / "run" / "learned")
    num_remaining = sum(value.numel() for value in learned.parameters())
    assert num_remaining == freezing.shrunk[-1].parameters < freezing.dense
    assert record.constraints[0].counted <= record.constraints[0].limit < num_remaining
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"frozen while learning; the student was shrunk {len(freezing.shrunk)} time" in report
    assert pipeline.choose(tmp_path / "run", constraint={"target": 0.4}).verification.holds
    with pytest.raises(TargetError, match=r"allows 0\.95 .* frozen shut while learning"):
        pipeline.choose(tmp_path / "run", constraint={"target": 0.95})


def test_a_selection_from_a_file_takes_the_same_way(root: Path, tmp_path: Path, done: Any) -> None:
    path = tmp_path / "hand.json"
    path.write_text(json.dumps({"format": 1, "axes": {"encoder.layers.1.feed_forward/units": [0, 3, 7]}}))
    record = pipeline.prune(
        recipe(root, tmp_path / "run", **CHANGES),
        # A target that no gate could meet does not matter: nothing is gated.
        overrides={"choose": {"kind": "file", "path": str(path)}, "target": 0.001, "recover.steps": 0},
    )
    (axis,) = (a for a in record.axes if a.name == "encoder.layers.1.feed_forward/units")
    assert axis.kept == 3
    assert record.verification.holds


def test_short_utterances_are_told_once_though_both_phases_draw(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"batching": {"seconds": 1.2, "longest": 0.4, "shortest": 0.3}}
    setting = prepare_run(
        configs.load(recipe(root, tmp_path / "run", **changes), PruneConfig), make_latency_table=pytest.fail
    )
    later_batches = setting.feed.starting_at(3).micro_batches(0, 0, 1)
    assert [batch.audio.ids for batch in later_batches] == [
        batch.audio.ids for batch in setting.feed.micro_batches(3, 0, 1)
    ]
    assert [message for message in caplog.messages if "too short to be drawn" in message] == [
        "speech: 5 of 10 utterances are below 0.3 s, too short to be drawn"
    ]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ({"target": 0.001}, TargetError),
        ({"data.path": "nowhere"}, DataError),
        ({"batching.shortest": 0.4, "batching.seconds": 9.0, "batching.accumulate": 12}, DataError),
        ({"distill.pairing.layers": [4]}, ConfigError),
    ],
)
def test_what_cannot_be_done_is_told_before_the_folder_is_made(
    root: Path, tmp_path: Path, overrides: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        pipeline.prune(recipe(root, tmp_path / "run"), overrides=overrides)
    assert list(tmp_path.iterdir()) == []


def test_what_an_interruption_left_half_written_is_cleared_away(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fields = recipe(root, folder, **CHANGES) | {"choose": {"kind": "score"}, "recover": {"steps": 0}}
    for name in (".learned.partial-77", ".model.partial-78"):
        (folder / name).mkdir(parents=True)
    (folder / ".selection.json.partial").write_text("half")
    (folder / "recipe.yaml").write_text(configs.dump(configs.load(fields, PruneConfig)))
    pipeline.prune(fields, resume=True)
    assert not list(folder.glob(".*"))


def test_a_failed_proof_is_not_taken_for_a_proof_when_the_run_is_resumed(root: Path, tmp_path: Path) -> None:
    fields = recipe(root, tmp_path / "run", **CHANGES)
    fields |= {"choose": {"kind": "score"}, "recover": {"steps": 0}}
    pipeline.prune(fields)
    folder = tmp_path / "run"
    proof = Verification.read(folder / "verified.json")
    replace(proof, holds=False, proven=False).write(folder / "verified.json")
    record = pipeline.prune(fields, resume=True)
    assert record.verification.holds


def test_differences_between_recipes_are_named() -> None:
    first, second = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": 2}
    assert configs.differences(yaml.safe_dump(first), yaml.safe_dump(second)) == ["a.c", "d", "e"]
    assert configs.differences("garbage", yaml.safe_dump(second)) == ["everything"]
    assert configs.differences(yaml.safe_dump(first), yaml.safe_dump(first)) == []
