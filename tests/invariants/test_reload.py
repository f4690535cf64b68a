"""Saved, loaded in a new process, saved again: the same numbers to the last bit; stock classes refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from reload_job import run
from safetensors.torch import load_file, save_file
from support import LOW_RANK, MODELS, Plan, audio, make_selection, model_inputs, tiny, tiny_structure

from secateur.architectures.registry import FAMILIES
from secateur.errors import ModelError
from secateur.surgery import cut, load_model

ENDINGS = ("Model", "ForCTC", "ForSequenceClassification")
PLAN = Plan(
    seed=8,
    channels=("some", "one", "some"),
    attention=("removed", "ragged", "dead"),
    feed_forward=("units", "removed", "dead"),
    trimmed=0,
    scales=True,
)
TRIMMED = Plan(
    seed=9,
    channels=("none", "whole", "some"),
    attention=("dead", "narrow", "whole"),
    feed_forward=("dead", "units", "whole"),
    trimmed=1,
    scales=True,
)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cut models, all loaded and run in one new process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reload")
    values, mask = audio((3100, 990, 75))
    assert mask is not None
    features, valid = model_inputs(tiny("wav2vec2-bert", "base"), values, mask)
    assert valid is not None
    inputs = {
        "input_values": values,
        "input_values.mask": mask,
        "input_features": features,
        "input_features.mask": valid,
    }
    save_file(inputs, folder / "audio.safetensors")
    jobs = {}
    for index, (family, size) in enumerate(MODELS + LOW_RANK):
        ending, plan = ENDINGS[index % 3], (PLAN, TRIMMED)[index % 2]
        small = cut(tiny(family, size, ending), make_selection(tiny_structure(family, size), plan))
        if family != "wavlm":
            small.set_attn_implementation("sdpa")  # what it is loaded with, unless one asks for another
        name = f"{family}-{size}"
        small.save_pretrained(folder / name)
        save_file(run(small, inputs), folder / f"{name}.here.safetensors")
        jobs[name] = ending
    (folder / "job.json").write_text(json.dumps(jobs))
    script_path = Path(__file__).with_name("reload_job.py")
    done = subprocess.run([sys.executable, str(script_path), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
def test_a_new_process_gives_bit_equal_outputs(reloaded: Path, family: str, size: str) -> None:
    name = f"{family}-{size}"
    here = load_file(reloaded / f"{name}.here.safetensors")
    for alternative in ("first", "second"):
        finished_results = load_file(reloaded / f"{name}.{alternative}.safetensors")
        assert here.keys() == finished_results.keys()
        assert all(torch.equal(here[key], finished_results[key]) for key in here), alternative


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
def test_a_model_saved_again_has_the_same_files(reloaded: Path, family: str, size: str) -> None:
    first, second = reloaded / f"{family}-{size}", reloaded / f"{family}-{size}-again"
    assert json.loads((first / "config.json").read_text()) == json.loads((second / "config.json").read_text())
    remaining, right = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert remaining.keys() == right.keys()
    assert all(torch.equal(remaining[key], right[key]) for key in remaining)


@pytest.mark.parametrize(("family", "size"), MODELS + LOW_RANK)
def test_the_stock_class_refuses_a_cut_folder(reloaded: Path, family: str, size: str) -> None:
    stock = getattr(transformers, FAMILIES[family].stem + "Model")
    with pytest.raises(Exception):  # noqa: B017, PT011 - the library's kind of error differs between families
        stock.from_pretrained(reloaded / f"{family}-{size}")


def test_our_loader_finds_the_head_by_itself(reloaded: Path) -> None:
    jobs = json.loads((reloaded / "job.json").read_text())
    for name, ending in jobs.items():
        assert type(load_model(reloaded / name)).__name__.endswith(ending)


def test_a_folder_without_one_weight_is_refused(reloaded: Path, tmp_path: Path) -> None:
    source = reloaded / "hubert-base"
    state = load_file(source / "model.safetensors")
    lost_value = next(name for name in state if name.endswith("final_layer_norm.weight"))
    save_file({name: value for name, value in state.items() if name != lost_value}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(ModelError, match=r"do not fit its config: missing .*final_layer_norm\.weight"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="missing"):
        transformers.AutoModel.from_pretrained(tmp_path)
