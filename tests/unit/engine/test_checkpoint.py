"""Checkpoints are whole or not there, run no code, and are refused by what they are not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.engine import checkpoint
from secateur.engine.checkpoint import CheckpointContents, Checkpoints, pack, read, unpack
from secateur.engine.rng import generator_states, restore_generators, seed_all
from secateur.errors import CheckpointError


def contents(step: int, phase: str = "learn") -> CheckpointContents:
    return CheckpointContents(phase=phase, step=step, steps=9, state={"w": torch.arange(4.0) + step})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_nested_values_come_back_with_their_types() -> None:
    value = {
        "state": {0: {"step": torch.tensor(3.0), "none": None}, 1: {}},
        "groups": [{"betas": (0.9, 0.98), "foreach": None, "params": [0, 1], "name": "a"}],
    }
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(pack(value, "", tensors)))
    assert list(tensors) == ["state.0.step"]
    assert unpack(tree, tensors) == value


def test_what_has_no_plain_form_is_refused_rather_than_pickled() -> None:
    with pytest.raises(TypeError, match=r"a\.0: a function cannot go into a checkpoint"):
        pack({"a": [lambda: None]}, "", {})


def test_the_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]

    seed_all(7, phase="learn", rank=0)
    draw()  # an odd number of normals: Python and NumPy each hold one back
    saved_state = CheckpointContents(phase="learn", step=1, steps=9, state={}, extras={"g": generator_states()})
    path = Checkpoints(tmp_path, phase="learn", keep=1).save(saved_state).path
    expected = [draw() for _ in range(3)]
    seed_all(8, phase="learn", rank=0)
    restore_generators(read(path, phase="learn").extras["g"])
    assert [draw() for _ in range(3)] == expected


def test_seeds_differ_by_phase_and_rank_and_repeat() -> None:
    draws = {}
    for phase in ("learn", "recover"):
        for rank in range(2):
            seed_all(1, phase=phase, rank=rank)
            draws[phase, rank] = float(torch.rand(()))
    assert len(set(draws.values())) == 4
    seed_all(1, phase="recover", rank=1)
    assert float(torch.rand(())) == draws["recover", 1]


def test_tied_and_sliced_tensors_are_stored_each_by_itself(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    state = {"a": table, "tied": table, "row": table[1], "column": table[:, 2], "turned": table.T}
    saved_state = Checkpoints(tmp_path, phase="learn", keep=1).save(
        CheckpointContents(phase="learn", step=1, steps=1, state=state)
    )
    actual = read(saved_state.path, phase="learn").state
    for name, tensor in state.items():
        assert torch.equal(actual[name], tensor), name


def test_only_the_newest_are_kept_and_other_phases_are_left_alone(tmp_path: Path) -> None:
    Checkpoints(tmp_path, phase="learn-more", keep=1).save(contents(1, "learn-more"))
    checkpoints = Checkpoints(tmp_path, phase="learn", keep=2)
    for step in (3, 5, 12_345_678):
        checkpoints.save(contents(step))
    assert names(tmp_path) == ["learn-0000005", "learn-12345678", "learn-more-0000001"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 12_345_678
    assert torch.equal(read(latest.path, phase="learn").state["w"], torch.arange(4.0) + 12_345_678)


def test_half_written_ones_are_ignored_and_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, phase="learn", keep=2)
    saved_path = checkpoints.save(contents(1)).path
    shutil.copytree(saved_path, saved_path.with_name(".learn-0000002.partial"))
    shutil.copytree(saved_path, saved_path.with_name(".learn-0000000.removed.partial"))
    shutil.copytree(saved_path, saved_path.with_name("learn-0000003"))
    (saved_path.with_name("learn-0000003") / "meta.json").unlink()
    assert [checkpoint_folder.step for checkpoint_folder in checkpoints.list_complete()] == [1]
    checkpoints.clean()
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize("writer", ["save_file", "write_json", "_sync"])
def test_a_full_disk_keeps_the_last_good_checkpoint_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    checkpoints = Checkpoints(tmp_path, phase="learn", keep=1)
    saved_path = checkpoints.save(contents(1)).path

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, writer, full)
        with pytest.raises(
            CheckpointError, match=r"No space left on device\); the last good checkpoint is .*learn-0000001"
        ):
            checkpoints.save(contents(2))
    assert names(tmp_path) == ["learn-0000001"]
    assert torch.equal(read(saved_path, phase="learn").state["w"], torch.arange(4.0) + 1)
    assert checkpoints.save(contents(2)).path.is_dir()


def test_one_of_another_phase_or_format_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path, phase="learn", keep=1).save(contents(1)).path
    with pytest.raises(CheckpointError, match="expected a checkpoint of phase 'recover', got phase 'learn'"):
        read(path, phase="recover")
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "format": 2}))
    with pytest.raises(CheckpointError, match="expected a checkpoint of format 1, got format 2"):
        read(path, phase="learn")


@pytest.mark.parametrize("name", ["state.safetensors", "optimisers.safetensors", "meta.json"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    path = Checkpoints(tmp_path, phase="learn", keep=1).save(contents(1)).path
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged .* Delete that folder"):
        read(path, phase="learn")


def test_a_phase_that_cannot_be_a_folder_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"phase: expected letters, .* got '\.\./x'"):
        Checkpoints(tmp_path, phase="../x", keep=1)
