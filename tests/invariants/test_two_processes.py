"""Two processes and one, given the same global batches, have the same gradients and choose the same units."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import prune_job
import pytest
import torch
from prune_job import STEPS
from pruning_toy import write_teacher, write_wavs
from safetensors.torch import load_file
from support import tiny_config

from secateur.compress.audio_batches import AudioFeed
from secateur.compress.config import Batching
from secateur.data.input_features import Waveform
from secateur.data.open import open_corpus
from secateur.data.sources import FolderData
from secateur.hf.declare import declare
from secateur.records.phase_record import LearnResult

pytestmark = pytest.mark.slow

#: Six crops and more in each step, so that two processes with two micro-batches each have an uneven share.
CHANGES: dict[str, Any] = {"batching": {"seconds": 2.4, "longest": 0.5, "shortest": 0.1, "accumulate": 2}}
TOLERANCE = 1e-4  # of the largest element: float32 sums in another order


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_wavs(root / "speech")
    write_teacher(root / "teacher", "wavlm", "large")
    return root


def launch(root: Path, folder: Path, *prefix: str, **extra_fields: Any) -> Path:
    folder.mkdir()
    changes = json.dumps(CHANGES | extra_fields)
    command = [sys.executable, *prefix, prune_job.__file__, str(root), str(folder / "run"), changes]
    done = subprocess.run(
        command, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(root: Path) -> Path:
    return launch(root, root / "one")


def torchrun() -> tuple[str, ...]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port))


@pytest.fixture(scope="module")
def two(root: Path) -> Path:
    return launch(root, root / "two", *torchrun())


def test_the_shares_are_uneven_and_padded(root: Path) -> None:
    corpus = open_corpus(FolderData(path=str(root / "speech")))
    structure = declare(tiny_config("wavlm", "large"))
    feed = AudioFeed(
        corpus,
        structure,
        Batching(**CHANGES["batching"]),
        seed=0,
        input_features=Waveform(normalize=True),
        equal_lengths=structure.sees_padding,
    )
    counts, padded = set(), False
    for rank in range(2):
        batches = feed.micro_batches(0, rank, 2)
        counts |= {len(batch.audio.ids) for batch in batches}
        padded |= any(batch.audio.mask is not None for batch in batches)
    assert len(counts) > 1
    assert padded


@pytest.mark.parametrize("step", [0, 1, STEPS - 1])
def test_gradients_of_weights_and_gates_agree(one: Path, two: Path, step: int) -> None:
    expected = load_file(one / f"gradients-{step}-0.safetensors")
    ranks = [load_file(two / f"gradients-{step}-{rank}.safetensors") for rank in range(2)]
    allowed = TOLERANCE * (1 if step == 0 else 30)  # Adam's steps carry the last digits of a gradient on
    for rank in ranks:
        assert rank.keys() == expected.keys()
        for name, value in expected.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(rank[name], value, rtol=allowed, atol=allowed * scale + 1e-8, msg=name)
    for name in ("log_alpha", "multipliers.linear", "multipliers.quadratic"):
        assert torch.equal(ranks[0][name], ranks[1][name]), name


def test_the_same_units_are_chosen(one: Path, two: Path) -> None:
    first, second = (json.loads((folder / "run" / "selection.json").read_text()) for folder in (one, two))
    assert first["axes"] == second["axes"]
    assert first["scales"].keys() == second["scales"].keys()
    for name, scales in first["scales"].items():
        assert second["scales"][name] == pytest.approx(scales, abs=1e-3), name


def test_log_and_model_agree(one: Path, two: Path) -> None:
    logs = [[json.loads(line) for line in (f / "run" / "metrics.jsonl").read_text().splitlines()] for f in (one, two)]
    for first, second in zip(*logs, strict=True):
        assert first.keys() == second.keys()
        if "loss" in first:
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)
            assert second["distill"] == pytest.approx(first["distill"], rel=1e-3)
    models = [load_file(folder / "run" / "model" / "model.safetensors") for folder in (one, two)]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-2, atol=2e-3, msg=name)
    assert sorted(p.name for p in (one / "run").iterdir()) == sorted(p.name for p in (two / "run").iterdir())


def test_a_student_that_shrinks_while_it_learns_is_the_same(root: Path) -> None:
    freeze = {"below": 0.4, "patience": 1, "every": 0.34, "worth": 0.01, "shrink": True}
    learn = {"steps": STEPS, "log_every": 1, "save_every": 2, "gate_learning_rate": 0.5, "freeze": freeze}
    one, two = (
        launch(root, root / f"shrinking-{name}", *prefix, learn=learn)
        for name, prefix in (("one", ()), ("two", torchrun()))
    )
    first, second = (LearnResult.read(f / "run" / "learned" / "learned.json").freezing for f in (one, two))
    assert first == second
    assert len(first.shrunk) > 1
    models = [load_file(folder / "run" / "learned" / "model.safetensors") for folder in (one, two)]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-2, atol=2e-3, msg=name)


def test_a_task_is_learned_alike(root: Path) -> None:
    """CTC through a GroupNorm front end, utterances of unequal lengths and labels on either rank."""
    write_teacher(root / "base", "wav2vec2", "base")
    lines = [
        {"audio": path.name, "text": "ab" * (1 + i % 3)} for i, path in enumerate(sorted((root / "speech").iterdir()))
    ]
    manifest = root / "speech" / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {
        "model": str(root / "base"),
        "data": {"kind": "jsonl", "path": str(manifest)},
        "task": {"kind": "ctc"},
        "distill": {"pairing": {"kind": "fixed", "layers": [0, 3]}},
        "batching": {"seconds": 2.4, "longest": 0.6, "shortest": 0.1, "accumulate": 2},
    }
    one, two = (
        launch(root, root / f"task-{name}", *prefix, **fields) for name, prefix in (("one", ()), ("two", torchrun()))
    )
    logs = [[json.loads(line) for line in (f / "run" / "metrics.jsonl").read_text().splitlines()] for f in (one, two)]
    assert len(logs[0]) == len(logs[1])
    for first, second in zip(*logs, strict=True):
        for name in first.keys() & {"loss", "task", "distill"}:
            assert second[name] == pytest.approx(first[name], rel=1e-3)
    models = [load_file(folder / "run" / "model" / "model.safetensors") for folder in (one, two)]
    assert "lm_head.weight" in models[0]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-2, atol=2e-3, msg=name)
