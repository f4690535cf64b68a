"""Pruning a FastConformer together with a transducer, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transducer_toy import MELS, transducer, write_encoders
from transformers import (
    ParakeetFeatureExtractor,
)

from secateur.errors import ConfigError, ModelError, SecateurError
from secateur.hf.load import load_model
from secateur.pipeline import choose, evaluate, prune, verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bare encoders, and recordings with texts, one of them far too long for its audio."""
    return write_encoders(tmp_path_factory.mktemp("transducers"), texts={2: "a" * 90})


def fields_of(folder: Path, model: str | Path, out: Path, **fields: Any) -> dict[str, Any]:
    """A run of two steps in each phase."""
    return {
        "model": str(model),
        "out": str(out),
        "data": {"kind": "jsonl", "path": str(folder / "speech" / "manifest.jsonl"), "max_skipped": 0.5},
        "validation": {"seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.6, "shortest": 0.1},
        "target": 0.6,
        "gates": {"units": {}, "heads": {}},
        "task": {"kind": "rnnt", "width": 12},
        "distill": None,
        "learn": {"steps": 2, "log_every": 1},
        "recover": {"steps": 2, "log_every": 1},
    } | fields


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_a_run_leaves_a_transducer_that_writes_and_can_be_pruned_again(kind: str, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForRNNT

    pairing = {"kind": "fixed", "layers": [0, 2]}
    run = tmp_path / "run"
    record = prune(fields_of(folder, folder / kind, run, finetune={"steps": 2}, distill={"pairing": pairing}))
    assert record.task.kind == "rnnt"
    assert record.verification.holds
    assert [set(stage.scores) for stage in record.stages] == [{"wer", "cer"}] * 3
    assert record.data.notes == ("manifest/train: 1 of 9 utterances left out: is too short for its text",)
    model: Any = AutoModelForRNNT.from_pretrained(run / "model")
    assert type(model).__name__.endswith("ForRNNT")
    assert model.config.vocab_size == 5  # blank, unknown, delimiter, a, b
    words = model.generate(torch.randn(1, 80, MELS), max_new_tokens=50).sequences
    assert int(words[0, 0]) == model.config.blank_token_id == 0
    repeated = prune(fields_of(folder, run / "model", tmp_path / "again", target=0.8))
    kept_units, first = (load_model(tmp_path / name / "model") for name in ("again", "run"))
    assert kept_units.config.vocab_size == first.config.vocab_size
    assert repeated.verification.holds


@pytest.mark.parametrize("shrink", [False, True])
def test_ranks_of_a_streaming_encoder_are_pruned_together_with_a_transducer(
    shrink: bool, folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "factorise": {"linears": ["q_proj", "relative_k_proj", "o_proj", "linear1", "subsampling.linear"]},
        "gates": {"rank": {"drop_rate": 0.5, "spread": 1.0}, "heads": {}, "vo": {}},
        "learn": {"steps": 4, "log_every": 1}
        | ({"freeze": {"below": 0.4, "every": 1, "shrink": True}} if shrink else {}),
    }
    record = prune(fields_of(folder, folder / "streaming", tmp_path / "run", **changes))
    assert record.verification.holds
    assert set(record.gates.kinds) == {"rank", "heads", "vo"}
    (constraint,) = record.constraints
    encoder = load_model(tmp_path / "run" / "model").get_submodule("encoder")
    assert constraint.counted == sum(p.numel() for p in encoder.parameters()) <= 0.6 * constraint.dense
    repeated = prune(fields_of(folder, tmp_path / "run" / "model", tmp_path / "again", target=0.8, gates={"rank": {}}))
    assert repeated.verification.holds


def test_predictor_and_joiner_learn_beside_the_encoder(folder: Path, tmp_path: Path) -> None:
    fields = {
        "finetune": {"steps": 1},
        "target": 0.8,
        "choose": {"kind": "score", "kinds": ["units"]},
        "recover": {"steps": 0},
    }
    prune(fields_of(folder, folder / "offline", tmp_path / "run", **fields))
    tuned = load_model(tmp_path / "run" / "finetuned").state_dict()
    untouched = fields | {"finetune": {"steps": 1, "learning_rate": 1e-12}}
    prune(fields_of(folder, folder / "offline", tmp_path / "still", **untouched))
    still = load_model(tmp_path / "still" / "finetuned").state_dict()
    parts = ("encoder.layers", "encoder_projector", "decoder.embedding", "decoder.lstm", "joint.head")
    for part in parts:
        moved = [float((tuned[name] - still[name]).abs().max()) for name in tuned if name.startswith(part)]
        assert max(moved) > 1e-5, part


def test_a_head_learns_at_a_rate_of_its_own(folder: Path, tmp_path: Path) -> None:
    fields = {"choose": {"kind": "score", "kinds": ["units"]}, "target": 1.0, "recover": {"steps": 0}}
    dense = prune(fields_of(folder, folder / "offline", tmp_path / "dense", **fields))
    assert dense.stages[-1].parameters == dense.stages[0].parameters  # nothing was asked to go
    still = {"steps": 1, "learning_rate": 0.0, "head_learning_rate": 1e-3}
    prune(fields_of(folder, folder / "offline", tmp_path / "still", **fields | {"recover": still}))
    initial_state, final_state = (load_model(tmp_path / name / "model").state_dict() for name in ("dense", "still"))
    moved = {
        name.partition(".")[0] for name in initial_state if not torch.equal(initial_state[name], final_state[name])
    }
    assert moved == {"encoder_projector", "decoder", "joint"}


def test_a_streaming_transducer_is_scored_chunk_by_chunk(folder: Path, tmp_path: Path) -> None:
    prune(fields_of(folder, folder / "streaming", tmp_path / "run"))
    model = tmp_path / "run" / "model"
    data = {"data.kind": "jsonl", "data.path": str(folder / "speech" / "manifest.jsonl"), "data.max_skipped": 0.5}
    chunked = evaluate(model, fields=data | {"streaming": True})
    offline = evaluate(model, fields=data)
    assert (chunked.streaming, chunked.lookahead) == (True, 1)
    assert (offline.streaming, offline.lookahead) == (False, 1)
    assert set(chunked.scores) == {"wer", "cer"}
    assert len(chunked.skipped) == 1
    with pytest.raises(ConfigError, match=r"lookahead: got 5, which .* was not built for; expected 1, from its config"):
        evaluate(model, fields=data | {"lookahead": 5})
    settings = {"supported_num_lookahead_tokens": [3, 0]}
    (model / "processor_config.json").write_text(json.dumps(settings))
    assert evaluate(model, fields=data | {"lookahead": 3}).lookahead == 3
    prune(fields_of(folder, folder / "offline", tmp_path / "offline"))
    with pytest.raises(ModelError, match="cannot stream, because it takes whole utterances"):
        evaluate(tmp_path / "offline" / "model", fields=data | {"streaming": True})


TWO = [{"target": 0.6}, {"scope": "transducer", "target": 0.5}]
WITH_HEAD = {"units": {}, "heads": {}, "predictor": {"spread": 1.0}, "joiner": {"spread": 1.0}}


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_predictor_and_joiner_are_pruned_with_a_constraint_of_their_own(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    task = {"kind": "rnnt", "width": 12, "layers": 2}
    changes = {"target": None, "constraints": TWO, "gates": WITH_HEAD, "task": task}
    record = prune(fields_of(folder, folder / kind, tmp_path / "run", **changes))
    assert set(record.gates.kinds) == set(WITH_HEAD)
    assert record.verification.holds
    assert verify(tmp_path / "run").holds
    model = load_model(tmp_path / "run" / "model")
    inner_settings = sum(value.numel() for value in model.get_submodule("encoder").parameters())
    counts = {"parameters-whole": inner_settings, "parameters-transducer": model.num_parameters() - inner_settings}
    for constraint in record.constraints:
        assert constraint.counted == counts[constraint.name]
        assert 0 <= constraint.limit - constraint.counted < 0.1 * constraint.dense
    kept_units = {axis.name: axis.kept for axis in record.axes if axis.kind in ("predictor", "joiner")}
    rows = [kept_units[f"decoder.lstm/layer{number}.predictor"] for number in (0, 1)]
    assert [model.get_parameter(f"decoder.lstm.bias_hh_l{number}").numel() for number in (0, 1)] == [
        4 * n for n in rows
    ]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Predictor units" in report
    assert "Joiner dimensions" in report
    scored = {
        "choose": {"kind": "score", "kinds": ["units", "predictor", "joiner"]},
        "constraints": [{"target": 0.9}, {"scope": "transducer", "target": 0.3}],
        "target": None,
    }
    repeated = prune(fields_of(folder, tmp_path / "run" / "model", tmp_path / "again", **scored))
    assert repeated.verification.holds
    for constraint in repeated.constraints:  # chosen apart, so that neither holds the other back
        assert constraint.limit - constraint.counted < 0.05 * constraint.dense
    initial = {axis.name: axis.before for axis in repeated.axes}
    assert {name: initial[name] for name in kept_units} == kept_units
    chosen_units = choose(tmp_path / "run", constraint={"scope": "transducer", "target": 0.7})
    assert chosen_units.verification.holds
    other_value = load_model(Path(chosen_units.folder) / "model")
    assert other_value.get_submodule("encoder").num_parameters() <= next(c.limit for c in record.constraints)
    assert other_value.num_parameters() > model.num_parameters()


def test_a_student_that_loses_units_of_its_head_learns_what_one_that_does_not_learns(
    folder: Path, tmp_path: Path
) -> None:
    freeze = {"below": 0.45, "every": 0.2, "patience": 1, "worth": 1e-3}
    gates = {kind: {"spread": 1.0, "drop_rate": 0.7} for kind in WITH_HEAD}
    fields = {"target": None, "constraints": TWO, "gates": gates, "task": {"kind": "rnnt", "width": 12, "layers": 2}}
    losses = []
    for shrink in (False, True):
        learn = {"steps": 6, "log_every": 1, "freeze": freeze | {"shrink": shrink}}
        out = tmp_path / str(shrink)
        record = prune(fields_of(folder, folder / "offline", out, learn=learn, recover={"steps": 0}, **fields))
        assert bool(record.gates.freezing.shrunk) is shrink
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([line["task"] for line in lines if "task" in line])
    assert len(losses[0]) >= 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for part in ("joint", "decoder.lstm"):  # the student before the cut is smaller already
        full_result, small = (load_model(tmp_path / name / "learned").get_submodule(part) for name in ("False", "True"))
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in full_result.parameters())


def test_a_default_run_leaves_the_head_out(folder: Path, tmp_path: Path) -> None:
    record = prune(fields_of(folder, folder / "offline", tmp_path / "run"))
    selection = json.loads((tmp_path / "run" / "selection.json").read_text())
    assert all(name.startswith(("layers", "subsampling")) for name in selection["axes"])
    assert "Predictor units" not in (tmp_path / "run" / "report.html").read_text()
    head = {"encoder_projector", "decoder", "joint"}
    assert not head & set(record.blocks.before)
    assert type(load_model(tmp_path / "run" / "model").get_submodule("decoder.lstm")) is torch.nn.LSTM


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gates": WITH_HEAD}, "The kind 'predictor' is to be pruned, but no constraint counts it, so that nothing"),
        (
            {"gates": WITH_HEAD, "target": None, "constraints": [{"target": 0.6}, {"scope": "joint", "target": 0.5}]},
            "The kind 'predictor' is to be pruned, but no constraint counts it",
        ),
        (
            {"target": None, "constraints": TWO},
            "The constraint parameters-transducer asks to keep 0.5 of .* the smallest reachable share is 1",
        ),
        (
            {"gates": WITH_HEAD, "constraints": [{"scope": "transducer", "cost": "macs"}]},
            "There are no MACs of the scope 'transducer'",
        ),
        ({"gates": WITH_HEAD, "task": {"kind": "ctc"}}, "'predictor' is to be pruned, which only transducers have"),
        ({"gates": WITH_HEAD, "task": None, "distill": {}}, "'predictor' is to be pruned, which only transducers have"),
        (
            {"choose": {"kind": "score", "kinds": ["joiner"]}, "target": None, "constraints": TWO[1:]},
            "has no predictor and joiner yet, and new ones have nothing to choose by",
        ),
        (
            {"task": None, "distill": {}, "target": None, "constraints": TWO},
            "The scope 'transducer' names no part of this parakeet_encoder model",
        ),
    ],
)
def test_what_cannot_be_pruned_of_a_head_is_told_before_anything_is_learned(
    changes: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SecateurError, match=sentence):
        prune(fields_of(folder, folder / "offline", tmp_path / "run", **changes))


def test_gates_of_a_head_want_its_task(folder: Path, tmp_path: Path) -> None:
    model = folder / "whole"
    transducer().save_pretrained(model)
    ParakeetFeatureExtractor(feature_size=MELS).save_pretrained(model)
    fields = {"gates": WITH_HEAD, "task": None, "distill": {}, "target": None, "constraints": TWO}
    with pytest.raises(ConfigError, match=r"gates\.predictor: a transducer's head is run for its task alone"):
        prune(fields_of(folder, model, tmp_path / "run", **fields))
    scored = fields | {"gates": {}, "choose": {"kind": "score", "kinds": ["units", "predictor", "joiner"]}}
    scored |= {"constraints": [{"target": 0.9}, TWO[1]]}
    record = prune(fields_of(folder, model, tmp_path / "scored", **scored))
    assert record.verification.holds
    assert load_model(tmp_path / "scored" / "model").get_submodule("joint.head").in_features < 20
