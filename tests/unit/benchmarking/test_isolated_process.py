"""Measuring in a process of its own: what it finds, or why it does not, comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.benchmarking.isolated_process import measure_in_subprocess
from secateur.errors import SecateurError

#: A module that answers as the measuring ones do, without torch.
MODULE = """
import json, os, signal, sys
job = json.loads(sys.stdin.read())
print("a library says hello")
print(json.dumps({"step": [1, 2]}), flush=True)
if "signal" in job["job"]:
    os.kill(os.getpid(), signal.SIGKILL)
if "raise" in job["job"]:
    raise ValueError("no room")
print(json.dumps(job["job"]["answer"] | {"threads": os.environ.get("OMP_NUM_THREADS")}))
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_measurement.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_what_a_process_found_and_how_far_it_was_come_back() -> None:
    steps: list[tuple[int, int]] = []
    answer = {"answer": {"found": {"ms": 1.5}}}
    result = measure_in_subprocess(
        "toy_measurement", answer, threads=3, tuned=False, on_step=lambda *step: steps.append(step)
    )
    assert result == {"ms": 1.5}
    assert steps == [(1, 2)]


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ({"answer": {"error": "The weights of 'x' cannot be loaded"}}, r"^The weights of 'x' cannot be loaded$"),
        ({"answer": {}}, "The measuring process failed: no error output"),
        ({"raise": True}, "The measuring process failed: ValueError: no room"),
        ({"signal": True}, "terminated by signal 9; 9 most often means that memory ran out"),
    ],
)
def test_a_failed_process_raises_a_one_sentence_error(job: dict[str, object], sentence: str) -> None:
    with pytest.raises(SecateurError, match=sentence):
        measure_in_subprocess("toy_measurement", job, threads=None, tuned=False)
