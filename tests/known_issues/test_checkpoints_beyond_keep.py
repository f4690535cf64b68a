"""A run killed between a save and the removal of the oldest checkpoint kept one too many for ever."""

from __future__ import annotations

from pathlib import Path

import torch

from secateur.engine.checkpoint import CheckpointContents, Checkpoints


def test_a_resumed_run_drops_the_checkpoint_that_the_killed_one_had_yet_to_remove(tmp_path: Path) -> None:
    roomy = Checkpoints(tmp_path, phase="learn", keep=3)
    for step in (1, 2, 3):
        roomy.save(CheckpointContents(phase="learn", step=step, steps=3, state={"x": torch.zeros(1)}))
    strict = Checkpoints(tmp_path, phase="learn", keep=2)
    strict.clean()
    assert [checkpoint_folder.step for checkpoint_folder in strict.list_complete()] == [2, 3]
