"""Blocks of a structure are modules of the model, and agree with the parts that old records are read with."""

from __future__ import annotations

import pytest
from support import FAST_CONFORMERS, MODELS, tiny, tiny_structure

from secateur.cost import breakdown
from secateur.records.block_part import CONVOLUTION, FRONT_END, PARTS, part_of_path

ALL_MODELS = [*MODELS, *((family, "base") for family in FAST_CONFORMERS)]


@pytest.mark.parametrize(("family", "size"), ALL_MODELS)
def test_blocks_are_modules_of_known_parts(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    modules = dict(tiny(family, size).named_modules())
    assert {block.part for block in structure.blocks} <= set(PARTS)
    assert all(block.path in modules for block in structure.blocks)
    assert len({block.path for block in structure.blocks}) == len(structure.blocks)


@pytest.mark.parametrize(("family", "size"), ALL_MODELS)
def test_every_counted_product_is_in_exactly_one_timed_block(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    for term in structure.mac_terms:
        holders = [block.path for block in structure.timed_blocks if block.contains(term.module)]
        assert len(holders) == 1, term.module


@pytest.mark.parametrize(("family", "size"), ALL_MODELS)
def test_parts_of_old_records_are_those_that_rows_declare(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    for name, costs in breakdown(structure, samples=1600).blocks.items():
        part, layer = part_of_path(name)
        assert part == costs.part, name
        if not name.startswith("subsampling"):  # old records have no number there
            assert layer == costs.layer, name


def test_a_path_belongs_to_the_innermost_block_around_it() -> None:
    structure = tiny_structure("wavlm", "base")
    paths = {
        "feature_extractor.conv_layers.1.conv.weight": ("feature_extractor.conv_layers.1", FRONT_END, 1),
        "encoder.layers.2.final_layer_norm.bias": ("encoder.layers.2", "rest", 2),
        "encoder.layers.2.attention.q_proj.bias": ("encoder.layers.2.attention", "attention", 2),
        "encoder.pos_conv_embed.conv": ("encoder.pos_conv_embed", "positional conv", None),
    }
    for path, expected in paths.items():
        block = structure.block_of(path)
        assert block is not None
        assert (block.path, block.part, block.layer) == expected
    assert structure.block_of("encoder.layer_norm.weight") is None


def test_convolution_modules_are_a_part_of_conformers_alone() -> None:
    parts = {family: {block.part for block in tiny_structure(family, "base").blocks} for family, _ in ALL_MODELS}
    assert {family for family, names in parts.items() if CONVOLUTION in names} == {
        "wav2vec2-conformer",
        "wav2vec2-bert",
        *FAST_CONFORMERS,
    }
