"""Cut models call every module whose weights they use, so that hooks on modules see all of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from support import RAGGED, audio, make_selection, model_inputs, tiny, tiny_structure
from transducer_toy import features, transducer

from secateur.hf.declare import declare
from secateur.structure import Selection
from secateur.surgery.cut import cut

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("hubert", "base"),
        ("wavlm", "large"),
        ("wav2vec2-bert", "base"),
        ("wav2vec2-conformer", "base"),
        ("parakeet_encoder", "base"),
        ("wavlm", "low_rank"),
    ],
)
@torch.no_grad()
def test_a_cut_model_whose_weights_are_fetched_module_by_module_computes_the_same(family: str, size: str) -> None:
    small: Any = cut(tiny(family, size), make_selection(tiny_structure(family, size), RAGGED))
    values, mask = model_inputs(small, *audio((4000, 2500)))
    expected = small(values, attention_mask=mask)[0]
    offloaded: Any = cpu_offload(small, execution_device=CPU)
    assert all(value.is_meta for value in offloaded.parameters())
    assert torch.equal(offloaded(values, attention_mask=mask)[0], expected)


@torch.no_grad()
def test_a_cut_transducer_whose_weights_are_fetched_module_by_module_writes_the_same() -> None:
    model = transducer()
    axes = {axis.name: axis.units[3:] for axis in declare(model.config).axes_of_kinds(("predictor", "joiner"))}
    small: Any = cut(model, Selection(axes=axes))
    small.generation_config.decoder_start_token_id = small.config.blank_token_id
    inputs = features(60, 40)
    expected = small.generate(**inputs).sequences
    offloaded: Any = cpu_offload(copy.deepcopy(small), execution_device=CPU)
    assert torch.equal(offloaded.generate(**inputs).sequences, expected)


@torch.no_grad()
def test_hooks_on_projections_see_a_cut_wavlm_and_not_the_stock_one() -> None:
    """What adapters such as LoRA are put on: the stock attention reads the weights and never calls the modules."""
    called: dict[str, int] = {}
    models = {"stock": copy.deepcopy(tiny("wavlm", "base")), "cut": cut(tiny("wavlm", "base"), Selection(axes={}))}
    for kind, model in models.items():
        called[kind] = 0

        def count(*_: Any, kind: str = kind) -> None:
            called[kind] += 1

        for name, module in model.named_modules():
            if name.endswith(("q_proj", "v_proj")):
                module.register_forward_hook(count)
        model(audio((4000,))[0])
    assert called == {"stock": 0, "cut": 6}
