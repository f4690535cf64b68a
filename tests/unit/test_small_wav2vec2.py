"""The small wav2vec 2.0 that benchmarks begin from."""

from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2Model, WavLMModel

from secateur.compress.run_context import TINY_MODEL, model_path
from small_wav2vec2 import small_wav2vec2, write


def test_it_holds_all_of_the_teacher_but_the_position_bias_of_its_attention() -> None:
    teacher = WavLMModel.from_pretrained(model_path(TINY_MODEL)).state_dict()
    small = small_wav2vec2().state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in small.items())
    remaining = {name for name in teacher if name not in small}
    assert {name.split(".")[4] for name in remaining} == {"rel_attn_embed", "gru_rel_pos_linear", "gru_rel_pos_const"}


def test_the_folder_loads_by_the_library_alone_and_is_written_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "small")
    assert isinstance(AutoModel.from_pretrained(folder), Wav2Vec2Model)
    assert AutoFeatureExtractor.from_pretrained(folder).do_normalize is not None
    written_at = (folder / "model.safetensors").stat().st_mtime_ns
    assert write(folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written_at
