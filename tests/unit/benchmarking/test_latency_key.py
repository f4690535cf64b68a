"""The cache key of latency tables covers the code that decides how fast a measured model is."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest
from support import tiny_config

import secateur
from secateur.benchmarking.latency import find
from secateur.benchmarking.latency.measure import build_model_of_shape
from secateur.benchmarking.latency.shapes import shapes_to_measure

PACKAGE_ROOT = Path(secateur.__file__).parent


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """A copy of the hashed sources, to change or remove files in."""
    for path in find.hashed_files():
        target = tmp_path / path.relative_to(PACKAGE_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


def test_a_copy_of_the_sources_has_the_same_key(package_copy: Path) -> None:
    assert find.code_hash(package_copy) == find.code_hash()


@pytest.mark.parametrize("name", find.HASHED_SOURCES)
def test_a_change_in_any_source_changes_the_key(package_copy: Path, name: str) -> None:
    source = package_copy / name
    changed_file = next(source.rglob("[a-z]*.py")) if source.is_dir() else source
    changed_file.write_text(changed_file.read_text() + "# changed\n")
    assert find.code_hash(package_copy) != find.code_hash()


@pytest.mark.parametrize("name", find.HASHED_SOURCES)
def test_a_missing_source_is_an_error(package_copy: Path, name: str) -> None:
    source = package_copy / name
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    with pytest.raises(AssertionError, match=f"hashes {name}, which is missing"):
        find.code_hash(package_copy)


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_every_class_of_a_measured_model_is_hashed(family: str) -> None:
    architecture = find.dense_architecture(tiny_config(family, "base"))
    shape = shapes_to_measure(architecture)[0]
    model = build_model_of_shape(shape, architecture, "fp32").model
    own_classes = {type(module) for module in model.modules() if type(module).__module__.startswith("secateur.")}
    assert len(own_classes) > 3
    # Classes made by `type(...)` have no source file of their own: their module does.
    files = {Path(str(inspect.getsourcefile(inspect.getmodule(cls)))) for cls in own_classes}  # type: ignore[arg-type]
    assert files <= set(find.hashed_files())
