"""Importing secateur costs nothing and registers whatever is imported first."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ASK = (
    "from transformers.models.auto.configuration_auto import CONFIG_MAPPING as c;"
    "assert 'secateur-wavlm' in c and 'secateur-hubert' in c"
)
ORDERS = {
    "ours first": f"import secateur, transformers; {ASK}",
    "theirs loaded": f"from transformers import AutoModel; import secateur; {ASK}",
    # The library imports its Auto mappings in the middle of importing any model: registering there is a cycle.
    "an auto class after ours": f"import secateur; from transformers import AutoModelForCTC; {ASK}",
    "a stock model after ours": f"import secateur; from transformers import HubertModel; {ASK}",
}

VERBS = """
import importlib, pkgutil, secateur
for module in pkgutil.walk_packages(secateur.__path__, "secateur."):
    if not module.name.endswith("__main__"): importlib.import_module(module.name)
from secateur import evaluate, report
assert all(callable(getattr(secateur, name)) for name in secateur.__all__)
from secateur.benchmarking import bench
assert bench.__name__ == "secateur.benchmarking.bench"
"""

#: Runs pieces of code, each in a process of its own, forked from one that has loaded torch and no more.
APART = """
import json, os, sys, torch
assert not {"transformers", "secateur"} & set(sys.modules)
codes = []
for code in sys.argv[1:]:
    child = os.fork()
    if not child:
        exec(code)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def failed() -> list[str]:
    """Which pieces of code failed, each tried in a process that has imported neither library."""
    pieces = {**ORDERS, "verbs": VERBS}
    done = python(APART, *pieces.values())
    assert done.returncode == 0, done.stderr[-1500:]
    print(done.stderr[-3000:])
    return [name for name, code in zip(pieces, json.loads(done.stdout), strict=True) if code]


@pytest.mark.parametrize("order", ORDERS)
def test_cut_models_are_registered_in_every_import_order(failed: list[str], order: str) -> None:
    assert order not in failed


def test_verbs_stay_callable_after_every_submodule_was_imported(failed: list[str]) -> None:
    assert "verbs" not in failed


def test_importing_secateur_loads_neither_torch_nor_transformers() -> None:
    done = python(
        "import sys, secateur, secateur.structure, secateur.records, secateur.errors;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
