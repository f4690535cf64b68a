"""`AutoModel` loads the encoder of every cut model, ignores extra weights and rejects incomplete encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_toy import NARROW, Change, add, drop, folder_of, same, with_head_of
from support import FAST_CONFORMERS, RAGGED, make_selection, tiny
from transformers import AutoModel

from secateur.architectures.registry import FAMILIES
from secateur.errors import ModelError
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.hf.models import head_classes
from secateur.surgery import cut, load_checkpoint

#: Every ending once, and those of x-vectors in every family: their head has a part that is called as the front end is.
ENDINGS = [
    *((family, "ForXVector") for family in FAMILIES if "ForXVector" in head_classes(family)),
    *(("wav2vec2", ending) for ending in head_classes("wav2vec2") if ending != "ForXVector"),
    *((FAST_CONFORMERS[0], ending) for ending in head_classes(FAST_CONFORMERS[0])),
]


@pytest.mark.parametrize(("family", "ending"), ENDINGS)
def test_auto_model_reads_a_cut_model_with_any_head(tmp_path: Path, family: str, ending: str) -> None:
    dense = tiny(family, "base") if ending == "Model" else with_head_of(family, ending)
    small = cut(dense, make_selection(declare(dense.config), RAGGED))
    small.save_pretrained(tmp_path)
    assert same(ModelView.of(AutoModel.from_pretrained(tmp_path)).encoder, ModelView.of(small).encoder)


@pytest.mark.parametrize(
    "change",
    [
        drop("classifier", "tdnn"),
        add(encoder__layers__9__self_attn__weight=(3, 3), encoder__weight=(2, 24), feature_projection=(2,)),
    ],
)
def test_auto_model_ignores_extra_weights_in_the_file_of_a_cut_encoder(tmp_path: Path, change: Change) -> None:
    small: Any = cut(tiny("wavlm", "base", "ForXVector"), NARROW)
    folder_of(tmp_path, small, change)
    assert same(AutoModel.from_pretrained(tmp_path), small.wavlm)
    assert same(ModelView.of(load_checkpoint(tmp_path).model).encoder, small.wavlm)


@pytest.mark.parametrize("ending", ["Model", "ForCTC"])
def test_auto_model_rejects_a_layer_missing_in_the_config(tmp_path: Path, ending: str) -> None:
    prefix = "" if ending == "Model" else "hubert."

    def change(state: dict[str, torch.Tensor]) -> None:
        state[f"{prefix}encoder.layers.3.layer_norm.weight"] = torch.ones(24)

    folder_of(tmp_path, cut(tiny("hubert", "base", ending), NARROW), change)
    with pytest.raises(ModelError, match=r"unexpected encoder\.layers\.3\.layer_norm\.weight"):
        AutoModel.from_pretrained(tmp_path)
