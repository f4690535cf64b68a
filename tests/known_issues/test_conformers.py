"""Where tools that prune Conformers break: GLU pairs, statistics, positions, and a convolution that is never called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import audio, model_inputs, outputs, tiny
from torch import nn

from secateur.compress.regularization import freeze_batch_norm
from secateur.cost import Cost, Terms
from secateur.hf.declare import declare
from secateur.structure import Selection
from secateur.surgery import cut

CONFORMER, BERT = "wav2vec2-conformer", "wav2vec2-bert"
LAYER = "encoder.layers.1"
KEPT = (0, 3, 4, 17)


def module(model: Any) -> Any:
    return model.encoder.layers[1]


def double(family: str = CONFORMER, size: str = "base") -> Any:
    return tiny(family, size, dtype=torch.float64)


@pytest.mark.parametrize(("family", "norm"), [(CONFORMER, "batch_norm"), (BERT, "depthwise_layer_norm")])
def test_a_channel_of_a_convolution_module_is_two_rows_a_filter_and_a_place_in_the_norm(family: str, norm: str) -> None:
    dense = double(family)
    small = cut(dense, Selection(axes={f"{LAYER}.conv_module/channels": KEPT}))
    actual, reference, rows = module(small).conv_module, module(dense).conv_module, list(KEPT)
    pairs = [*rows, *(row + 24 for row in rows)]
    assert torch.equal(actual.pointwise_conv1.weight, reference.pointwise_conv1.weight[pairs])
    assert torch.equal(actual.depthwise_conv.weight, reference.depthwise_conv.weight[rows])
    assert torch.equal(actual.pointwise_conv2.weight, reference.pointwise_conv2.weight[:, rows])
    state, initial_state = getattr(actual, norm).state_dict(), getattr(reference, norm).state_dict()
    tensors = [name for name in initial_state if name != "num_batches_tracked"]
    assert len(tensors) == (4 if norm == "batch_norm" else 2)  # running statistics go along
    assert all(torch.equal(state[name], initial_state[name][rows]) for name in tensors)


def test_a_convolution_module_without_channels_has_nothing_left() -> None:
    terms, dense = Terms(declare(tiny(CONFORMER, "base").config)), double()
    for axes in ({f"{LAYER}.conv_module/channels": ()}, {f"{LAYER}.conv_module/block": ()}):
        small = cut(dense, Selection(axes=axes))
        assert not list(module(small).conv_module.parameters())
        count = Cost.from_terms(terms, cost="parameters", scope=f"{LAYER}.conv_module").count(Selection(axes=axes))
        assert count == 0
        assert len(outputs(small, *audio((1600,), torch.float64))) == 5


def test_positions_have_keys_and_biases_that_go_with_dimensions_of_keys_and_queries() -> None:
    dense = double()
    small = cut(dense, Selection(axes={f"{LAYER}.self_attn/heads": (2,), f"{LAYER}.self_attn/head2.qk": (1, 4)}))
    actual, reference = module(small).self_attn, module(dense).self_attn
    assert torch.equal(actual.linear_pos.weight, reference.linear_pos.weight[[13, 16]])
    for name in ("pos_bias_u", "pos_bias_v"):
        assert torch.equal(getattr(actual, name), getattr(reference, name)[2, [1, 4]])
    assert actual.scaling == 6**-0.5  # of the original head


def test_the_table_of_relative_keys_stays_whole_until_the_last_head_goes() -> None:
    dense = double(BERT)
    narrow = {f"{LAYER}.self_attn/heads": (2,), f"{LAYER}.self_attn/head2.qk": (1,)}
    small = cut(dense, Selection(axes=narrow))
    table = module(dense).self_attn.distance_embedding.weight
    assert torch.equal(module(small).self_attn.distance_embedding.weight, table)
    removed = cut(dense, Selection(axes={f"{LAYER}.self_attn/heads": ()}))
    assert [name for name, _ in module(removed).self_attn.named_parameters()] == ["linear_out.bias"]


@pytest.mark.parametrize("size", ["base", "large", "none"])
def test_the_positional_convolution_of_a_conformer_is_never_called_and_no_part_of_a_cut_model(size: str) -> None:
    dense = double(size=size)
    calls: list[nn.Module] = []
    hook = dense.encoder.pos_conv_embed.register_forward_hook(lambda module, *_: calls.append(module))
    outputs(dense, *audio((1600,), torch.float64))
    hook.remove()
    assert not calls
    small = cut(dense, Selection(axes={}))
    assert not hasattr(small.encoder, "pos_conv_embed")
    lost_value = {name for name, _ in dense.named_parameters()} - {name for name, _ in small.named_parameters()}
    assert lost_value == set(declare(dense.config).unused)


def test_batch_norm_keeps_its_statistics_while_dropout_is_on() -> None:
    model = cut(double(), Selection(axes={})).train()
    freeze_batch_norm(model)
    initial_state = {name: value.clone() for name, value in model.named_buffers()}
    model(model_inputs(model, *audio((1600, 1600), torch.float64))[0])
    assert model.training
    assert all(torch.equal(value, initial_state[name]) for name, value in model.named_buffers())
