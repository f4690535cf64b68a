"""Pruning runs with ranks: learned, by size, joined with other kinds, and while the student shrinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prune_job import recipe
from pruning_toy import write_teacher, write_wavs

import secateur
from secateur.errors import ConfigError
from secateur.nn.low_rank import FactorizedLinear
from secateur.surgery import load_model

QUICK: dict[str, Any] = {"steps": 2, "log_every": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and recordings."""
    root = tmp_path_factory.mktemp("low_rank")
    write_wavs(root / "speech")
    write_teacher(root / "teacher", "wavlm", "base")
    return root


def low_rank(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Ranks in attention, units in the feed-forward blocks."""
    fields: dict[str, Any] = {
        "factorise": {"linears": ["q_proj", "k_proj", "v_proj", "out_proj"]},
        "gates": {"rank": {"drop_rate": 0.5, "spread": 1.0}, "units": {"drop_rate": 0.5, "spread": 1.0}},
        "target": 0.7,
        "learn": QUICK,
        "recover": QUICK,
    }
    return recipe(root, out) | fields | changes


def ranks_left(folder: Path) -> list[int]:
    """Ranks of the factorised maps of a model."""
    maps = [m for m in load_model(folder).modules() if isinstance(m, FactorizedLinear)]
    return [m.inner.out_features for m in maps]


def test_ranks_in_attention_and_units_in_feed_forward_blocks_are_learned_together(root: Path, tmp_path: Path) -> None:
    record = secateur.prune(low_rank(root, tmp_path / "run"))
    (constraint,) = record.constraints
    dense = sum(parameter.numel() for parameter in load_model(root / "teacher").parameters())
    small = load_model(tmp_path / "run" / "model")
    assert constraint.dense == dense == record.stages[0].parameters
    assert constraint.counted == sum(p.numel() for p in small.parameters()) <= 0.7 * dense
    assert record.verification.holds
    assert set(record.gates.kinds) == {"rank", "units"}
    assert len(ranks_left(tmp_path / "run" / "learned")) == 12  # four maps in each of three layers, all ranks
    assert set(ranks_left(tmp_path / "run" / "learned")) == {24}
    assert "Ranks of q_proj" in (tmp_path / "run" / "report.html").read_text()
    assert secateur.verify(tmp_path / "run").holds
    repeated = secateur.choose(tmp_path / "run", constraint={"target": 0.6})
    assert repeated.counted["parameters-whole"] <= 0.6 * dense


def test_truncated_decomposition_needs_no_gates(root: Path, tmp_path: Path) -> None:
    by_size = {"kind": "score", "kinds": ["rank"]}
    record = secateur.prune(low_rank(root, tmp_path / "run", choose=by_size, target=0.8))
    assert record.verification.holds
    assert record.constraints[0].counted <= 0.8 * record.constraints[0].dense
    remaining = ranks_left(tmp_path / "run" / "model")
    assert remaining
    assert max(remaining) < 12
    assert secateur.verify(tmp_path / "run").holds


def test_a_student_that_shrinks_keeps_its_two_matrices_until_ranks_are_chosen(root: Path, tmp_path: Path) -> None:
    learn = {
        "steps": 12,
        "gate_learning_rate": 0.3,
        "freeze": {"below": 0.45, "patience": 1, "every": 0.1, "worth": 0.01, "shrink": True},
    }
    gates = {kind: {"drop_rate": 0.55, "spread": 2.0} for kind in ("rank", "units")}
    record = secateur.prune(low_rank(root, tmp_path / "run", learn=learn, gates=gates, target=0.4))
    assert record.gates.freezing.shrunk
    assert len(ranks_left(tmp_path / "run" / "learned")) == 12
    assert record.verification.holds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factorise": None}, "no linear map of this model is factorised: name some under 'factorise'"),
        ({"gates": {"units": {}}}, "no ranks are pruned, .* name the kind 'rank' under 'gates'"),
        ({"factorise": {"linears": ["q_pro"]}}, "there is no 'q_pro' .* Did you mean 'q_proj'"),
        ({"factorise": {"linears": ["q_proj"], "start": 25}}, "got 25, but .* has 24 ranks"),
        (
            {"factorise": {"linears": ["q_proj"], "start": 0}},
            "factorise.start: expected 'full', 'break_even' or an integer >= 1, got 0.",
        ),
        ({"factorise": {"linears": []}}, "linears: got none"),
    ],
)
def test_bad_input_ends_in_one_sentence(root: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        secateur.prune(low_rank(root, tmp_path / "run", **changes))
