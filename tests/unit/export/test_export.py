"""Export targets: equal outputs or no folder at all, and one sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import write_teacher
from safetensors.torch import load_file
from support import audio, outputs
from transformers import AutoModel

import secateur
import wav2vec2_axes as names
from secateur.cli.main import main
from secateur.cli.verb import BAD_INPUT
from secateur.errors import ConfigError, ModelError, SecateurError, SelectionError
from secateur.export import TARGETS, find_target
from secateur.records.export_record import ExportRecord
from secateur.structure import Selection
from secateur.surgery.verify import verify

#: A shape that stock classes can have, and one that they cannot have.
EQUAL_WIDTHS = {names.channels(0): (0, 2, 5), **{names.feed_forward_units(layer): (1, 4, 6) for layer in range(3)}}
FEWER_HEADS = {names.heads(1): (0, 2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model, and two models that were cut from it."""
    root = tmp_path_factory.mktemp("export")
    write_teacher(root / "dense", size="base")
    for name, axes in (("equal_widths", EQUAL_WIDTHS), ("fewer_heads", FEWER_HEADS)):
        (root / f"{name}.json").write_text(json.dumps(Selection(axes=axes).to_json()))
        secateur.shrink(root / "dense", selection=root / f"{name}.json", out=root / name)
    return root


@pytest.mark.parametrize("name", ["dense", "equal_widths"])
def test_a_stock_export_is_an_unmodified_class_with_equal_outputs(root: Path, tmp_path: Path, name: str) -> None:
    record = secateur.export(root / name, target="stock", out=tmp_path / "out")
    assert record.verification.holds
    exported = AutoModel.from_pretrained(tmp_path / "out")
    assert type(exported).__module__ == "transformers.models.wavlm.modeling_wavlm"
    source = AutoModel.from_pretrained(root / name)
    pairs = zip(outputs(exported, *audio((1600, 900))), outputs(source, *audio((1600, 900))), strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert record.files.keys() == {path.name for path in (tmp_path / "out").iterdir()}
    assert "preprocessor_config.json" in record.files


def test_a_stock_export_loads_where_secateur_is_not_imported(root: Path, tmp_path: Path) -> None:
    secateur.export(root / "equal_widths", target="stock", out=tmp_path / "out")
    code = (
        "import sys; from transformers import AutoModel; model = AutoModel.from_pretrained(sys.argv[1]); "
        "assert 'secateur' not in sys.modules; assert model.config.intermediate_size == 3"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True)


def test_a_stock_export_equals_shrinking_by_an_empty_selection(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"format": 1, "axes": {}}')
    source = root / "equal_widths"
    secateur.shrink(source, selection=tmp_path / "empty.json", out=tmp_path / "shrunk", layout="stock")
    secateur.export(source, target="stock", out=tmp_path / "exported")
    file_names = {path.name for path in (tmp_path / "shrunk").iterdir()}
    assert file_names == {path.name for path in (tmp_path / "exported").iterdir()}
    for name in file_names:
        assert (tmp_path / "shrunk" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes(), name


def test_a_task_head_is_exported_with_the_encoder(tmp_path: Path) -> None:
    write_teacher(tmp_path / "dense", size="base", ending="ForCTC")
    secateur.export(tmp_path / "dense", target="stock", out=tmp_path / "out")
    dense, exported = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "out"))
    assert torch.equal(exported["lm_head.weight"], dense["lm_head.weight"])


def test_the_record_reads_back_from_its_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(root / "dense"), str(tmp_path / "out")
    assert main(["export", "stock", model, "--out", out, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [data[key] for key in ("kind", "target", "model", "folder")] == ["export", "stock", model, out]
    assert ExportRecord.from_dict(data).to_dict() == data
    assert main(["export", "stock", model, "--out", out, "--force"]) == 0
    assert "holds  cut model equals masked model" in capsys.readouterr().out


def test_a_failed_parity_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify_another_model(cut: Any, dense: Any, selection: Selection) -> Any:
        with torch.no_grad():
            cut.encoder.encoder.layers[0].final_layer_norm.weight.mul_(1.01)
        return verify(cut, dense, selection)

    monkeypatch.setattr("secateur.surgery.cut_checkpoint.verify", verify_another_model)
    with pytest.raises(SecateurError, match=r"cut model equals masked model .* Nothing was written"):
        secateur.export(root / "dense", target="stock", out=tmp_path / "a" / "b")
    assert main(["export", "stock", str(root / "dense"), "--out", str(tmp_path / "a" / "b")]) != 0
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_stock_classes_cannot_have_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r"does not fit the stock layout: layer 1 has 2 of 4 heads"):
        secateur.export(root / "fewer_heads", target="stock", out=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_is_answered_by_the_nearest_name(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"Unknown export target 'stok'; allowed: {', '.join(TARGETS)}\. Did you mean 'stock'\?"
    ):
        secateur.export(root / "dense", target="stok", out=tmp_path / "out")


def test_a_model_without_weights_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((root / "dense" / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"there is no model\.safetensors"):
        secateur.export(tmp_path / "bare", target="stock", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_replaced_on_demand_only(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("notes")
    words = ["export", "stock", str(root / "dense"), "--out", str(out)]
    assert main(words) == BAD_INPUT
    assert "exists already and is not empty" in capsys.readouterr().err
    with pytest.raises(SelectionError):  # the old folder stays where the new one cannot be written
        secateur.export(root / "fewer_heads", target="stock", out=out, force=True)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert main([*words, "--force"]) == 0
    assert not (out / "notes.txt").exists()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_a_line_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{name}: {find_target(name).summary}" in text


def test_the_targets_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from secateur.export import TARGETS, find_target; [find_target(name) for name in TARGETS]; "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
