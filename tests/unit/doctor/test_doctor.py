"""The doctor finds what is broken, and says what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secateur.benchmarking import process_settings
from secateur.doctor import doctor, machine, smoke_test
from secateur.records.finding import Finding

ROOT = Path(__file__).parents[3]
CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse avx2 avx512f avx512_bf16\n"


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    findings = doctor.examine_installation(folder=ROOT / "not" / "there")
    return {finding.name: finding for finding in findings}


@pytest.mark.processor
def test_a_sound_installation_has_no_problem_and_every_remark_a_remedy(found: dict[str, Finding]) -> None:
    assert [f for f in found.values() if f.status == "problem"] == []
    assert all(f.detail for f in found.values())
    assert {"python", "torch", "torchaudio", "processor", "threads", "memory", "disk", "smoke test"} <= set(found)


def test_findings_are_plain_json(found: dict[str, Finding]) -> None:
    second_record = json.loads(json.dumps([finding.to_dict() for finding in found.values()]))
    assert [finding["name"] for finding in second_record] == list(found)


@pytest.mark.processor
def test_the_smoke_test_covers_every_family_and_leaves_the_random_state_alone() -> None:
    initial_setting = torch.get_rng_state()
    finding = smoke_test.smoke_test()
    assert finding.status == "ok", finding.detail
    assert all(family in finding.detail for family in ("wav2vec2", "hubert", "wavlm", "data2vec-audio"))
    assert torch.equal(initial_setting, torch.get_rng_state())


def test_a_line_of_the_proof_that_does_not_hold_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        smoke_test, "_check_family", lambda family: ["bfloat16 (off by 1)"] if family == "wavlm" else []
    )
    finding = smoke_test.smoke_test()
    assert (finding.status, finding.detail) == ("problem", "wavlm: bfloat16 (off by 1)")


def test_the_tested_versions_are_those_of_the_constraints_file() -> None:
    lines = (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: doctor.TESTED_VERSIONS[name] for name in pinned} == pinned


@pytest.mark.parametrize("name", ["torchaudio", "torchcodec"])
def test_a_library_that_breaks_transformers_is_a_problem(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = next(finding for finding in doctor.conflicting_packages() if finding.name == name)
    assert finding.status == "problem"
    assert "libcudart.so.13" in finding.detail
    assert "pip uninstall torchaudio torchcodec" in finding.remedy
    assert name not in sys.modules


def test_the_same_library_in_working_order_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchaudio.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert [finding.status for finding in doctor.conflicting_packages()] == ["note", "ok"]


def test_a_missing_and_an_old_package_are_problems_and_an_untested_one_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = ["torch>=2.6", "transformers>=5.23.0", "accelerate>=1.15", "scipy>=1; extra == 'test'"]
    versions = {"torch": "2.14.1+cpu", "transformers": "4.57.0"}
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: expected)
    monkeypatch.setattr(doctor, "_version", versions.get)
    statuses = {finding.name: finding.status for finding in doctor.packages()}
    assert statuses == {"torch": "note", "transformers": "problem", "accelerate": "problem"}


def test_an_error_in_one_check_does_not_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError("no such library")

    monkeypatch.setattr(doctor, "torch_build", broken)
    monkeypatch.setattr(doctor, "smoke_test", lambda: Finding(name="smoke test", status="ok", detail="left out"))
    found = {finding.name: finding for finding in doctor.examine_installation()}
    assert found["torch build"].status == "problem"
    assert "OSError: no such library" in found["torch build"].detail
    assert found["smoke test"].status == "ok"


def test_importing_the_doctor_loads_no_torch() -> None:
    code = "import secateur.doctor.doctor, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_processor_flags_are_read_and_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert machine.parse_cpu_flags(CPUINFO) == {"fpu", "sse", "avx2", "avx512f", "avx512_bf16"}
    assert "avx512_bf16 (bfloat16 products)" in machine.processor(CPUINFO).detail
    plain = machine.processor(CPUINFO.replace("avx512_bf16", ""))
    assert "no bfloat16" in plain.detail
    assert machine.processor("flags : fpu sse\n").status == "note"


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("", None)])
def test_the_quota_of_a_container_is_in_cores(text: str, cores: float | None) -> None:
    assert machine.cpu_quota(text) == cores


def test_more_threads_than_the_container_grants_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    finding = machine.threads()
    assert (finding.status, finding.remedy) == ("note", "Set OMP_NUM_THREADS=1.")


def test_free_memory_is_what_the_system_says_or_less() -> None:
    free = machine.free_memory()
    text = Path("/proc/meminfo")
    if not text.exists():
        pytest.skip("no /proc/meminfo on this system")
    total = int(re.search(r"MemTotal:\s+(\d+)", text.read_text())[1]) * 1024  # type: ignore[index]
    assert free is not None
    assert 0 < free <= total


def test_room_is_looked_for_where_the_run_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.disk(tmp_path / "a" / "b").status in ("ok", "note")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert machine.disk(tmp_path / "a").status == "problem"


def test_malloc_is_remarked_on_until_every_setting_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_settings.platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in process_settings.MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert all(f"{name}=" in process_settings.malloc().remedy for name in process_settings.MALLOC_SETTINGS)
    for name, value in process_settings.MALLOC_SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert process_settings.malloc().status == "ok"


@pytest.mark.processor
def test_examining_products_leaves_the_precision_as_it_was() -> None:
    initial_setting = torch.get_float32_matmul_precision()
    assert re.search(r"relative error of \de-\d\d", process_settings.float32_products().detail)
    assert torch.get_float32_matmul_precision() == initial_setting
