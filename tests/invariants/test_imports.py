"""Importing secateur costs nothing and registers whatever is imported first."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_cut_models_are_registered_in_every_import_order() -> None:
    done = python(APART, *ORDERS.values())
    assert done.returncode == 0, done.stderr[-1500:]
    failed = [order for order, code in zip(ORDERS, json.loads(done.stdout), strict=True) if code]
    assert failed == [], done.stderr[-1500:]


def test_importing_secateur_loads_neither_torch_nor_transformers() -> None:
    done = python(
        "import sys, secateur, secateur.structure, secateur.records, secateur.errors;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_verbs_stay_callable_after_every_submodule_was_imported() -> None:
    done = python(
        "import importlib, pkgutil, secateur\n"
        "for module in pkgutil.walk_packages(secateur.__path__, 'secateur.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "from secateur import evaluate, report\n"
        "assert all(callable(getattr(secateur, name)) for name in secateur.__all__)\n"
        "from secateur.evaluate import bench\n"
        "assert bench.__name__ == 'secateur.evaluate.bench'"
    )
    assert done.returncode == 0, done.stderr[-1500:]
