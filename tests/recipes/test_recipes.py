"""Every recipe that ships with the package loads, and takes two steps of each phase on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pruning_toy import LENGTHS, write_wavs
from support import build, tiny_config

from secateur import config as configs
from secateur.compress.config import FromGates, PruneConfig
from secateur.losses.layer_mapping import teacher_layers
from secateur.pipeline import RECIPES, pretrain, prune
from secateur.pretraining.pretrain import PretrainConfig

FILES = sorted(RECIPES.rglob("recipe.yaml"))
NAMES = [path.parent.relative_to(RECIPES).as_posix() for path in FILES]
#: Recipes of another verb than `prune`.
PRETRAIN = ("chiu2022", "tiny_teacher")
#: The grid of test_kumar2025.py, which begins with other encoders.
GRID = tuple(name for name in NAMES if name.split("/")[0] == "kumar2025")


def class_of(name: str) -> type[PruneConfig] | type[PretrainConfig]:
    return PretrainConfig if name in PRETRAIN else PruneConfig


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, and a manifest that splits them."""
    folder = write_wavs(tmp_path_factory.mktemp("recipes") / "speech")
    lines = [
        {
            "audio_filepath": f"u{index:02}.wav",
            "split": "dev" if index % 4 == 3 else "train",
            "text": "ab"[index % 2],
            "label": "xy"[index % 2],
        }
        for index in range(len(LENGTHS))
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_every_recipe_is_found() -> None:
    assert sorted(set(NAMES) - set(GRID)) == [
        "chiu2022",
        "dphubert",
        "peng2023",
        "peng2023/mac",
        "peng2023/reduced",
        "peng2023/sepmac",
        "peng2023/size",
        "peng2023/slurp",
        "peng2023/slurp/mac",
        "peng2023/slurp/sepmac",
        "peng2023/slurp/size",
        "quickstart",
        "tiny_teacher",
        "wang2023",
        "wang2023/reduced",
        "wang2023/self_pinching",
        "wang2023/without_fahp",
        "wang2023/without_ste",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_by_name_and_is_written_back_whole(name: str, tmp_path: Path) -> None:
    recipe: Any = configs.load(name, class_of(name), search=RECIPES)
    (tmp_path / "again.yaml").write_text(configs.dump(recipe))
    assert configs.load(tmp_path / "again.yaml", class_of(name)) == recipe


def depth_of(recipe: PruneConfig) -> int:
    """Layers of the smallest model that the recipe's pairing fits."""
    listed = recipe.distill.pairing.layers if recipe.distill else None
    return max(listed) if listed else 3


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PRETRAIN + GRID])
def test_a_pruning_recipe_takes_two_steps_of_every_phase(name: str, speech: Path, tmp_path: Path) -> None:
    recipe: Any = configs.load(name, PruneConfig, search=RECIPES)
    family = next(family for family in ("hubert", "wav2vec2", "wavlm", "") if family in recipe.model) or "wavlm"
    depth = depth_of(recipe)
    build(tiny_config(family, "base", num_hidden_layers=depth)).save_pretrained(tmp_path / "teacher")
    overrides = {
        "model": str(tmp_path / "teacher"),
        "out": str(tmp_path / "run"),
        "data": {"kind": "jsonl", "path": str(speech / "manifest.jsonl")},
        "validation": {"data": None, "seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.4 if recipe.task is None else 0.6, "shortest": 0.1, "accumulate": 1},
        "learn.steps": 2,
        "recover.steps": min(2, recipe.recover.steps),
        "learn.log_every": 1,
    }
    record = prune(name, overrides=overrides)
    phases = {phase.name: phase.steps for phase in record.phases}
    learned = {"learn": 2} if isinstance(recipe.choose, FromGates) else {}
    assert phases == learned | ({"recover": 2} if recipe.recover.steps else {})
    assert record.verification.holds
    for constraint in record.constraints:
        assert constraint.counted <= constraint.limit
    assert (tmp_path / "run" / "report.html").is_file()


#: What makes the encoders of these recipes tiny.
TINY: dict[str, dict[str, Any]] = {
    "chiu2022": {
        "encoder.fields": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 8, "num_mel_bins": 16},
        "warmup": 1,
    },
    "tiny_teacher": {
        "encoder": {
            "conv_channels": [4] * 7,
            "width": 16,
            "layers": 1,
            "heads": 2,
            "feed_forward": 8,
            "positions": 4,
            "position_groups": 1,
        },
        "front_steps": 1,
    },
}


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pretraining_recipe_takes_two_steps(name: str, speech: Path, tmp_path: Path) -> None:
    overrides = TINY[name] | {
        "out": str(tmp_path / "run"),
        "data": {"kind": "jsonl", "path": str(speech / "manifest.jsonl")},
        "seconds": 1.0,
        "crop": 0.4,
        "loop.steps": 2,
        "loop.log_every": 1,
    }
    record = pretrain(name, overrides=overrides)
    assert record.parameters > 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_the_published_settings_are_in_the_recipes() -> None:
    wang: Any = configs.load("wang2023", PruneConfig, search=RECIPES)
    assert [(c.cost, c.scope, c.sparsity) for c in wang.targeted_constraints] == [("parameters", "gated", 0.8)]
    assert set(wang.gate_configs) == {"qk", "vo", "units", "block"}
    assert all(gate.straight_through for gate in wang.gate_configs.values())
    heads: Any = configs.load("wang2023/without_fahp", PruneConfig, search=RECIPES)
    assert set(heads.gate_configs) == {"heads", "units", "block"}
    plain: Any = configs.load("wang2023/without_ste", PruneConfig, search=RECIPES)
    assert plain.gate_configs == {
        kind: replace(gate, straight_through=False) for kind, gate in wang.gate_configs.items()
    }
    dphubert: Any = configs.load("dphubert", PruneConfig, search=RECIPES)
    assert [(c.scope, c.sparsity) for c in dphubert.targeted_constraints] == [("whole", 0.75)]
    assert teacher_layers(dphubert.distill.pairing, 12) == (0, 4, 8, 12)
    costs = {
        name: [
            (c.cost, c.scope, c.target_share)
            for c in configs.load(f"peng2023/{name}", PruneConfig, search=RECIPES).targeted_constraints
        ]
        for name in ("size", "mac", "sepmac")
    }
    assert costs == {
        "size": [("parameters", "whole", 0.5)],
        "mac": [("macs", "whole", 0.5)],
        "sepmac": [("macs", "frontend", 0.5), ("macs", "encoder", 0.5)],
    }
