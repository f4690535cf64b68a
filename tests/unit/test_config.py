"""Recipes become dataclasses, and every mistake in one is told at once, in words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Lt

from secateur.config import check, dump, load, merge, parse_scalar
from secateur.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Folder:
    kind: Literal["folder"] = "folder"
    path: Path
    suffixes: tuple[str, ...] = (".wav", ".flac")


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    kind: Literal["synthetic"] = "synthetic"
    voices: int = 4


@dataclass(frozen=True, kw_only=True)
class Learn:
    steps: Annotated[int, Gt(0)] = 100
    rate: float = 1e-3
    drop: Annotated[float, Ge(0), Lt(1)] = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    betas: tuple[float, float] = (0.9, 0.98)
    layers: tuple[int, ...] | None = None
    temperature: dict[str, float] = field(default_factory=dict)
    clip: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ConfigError(f"layers: got {list(self.layers)}, allowed is each layer once.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    data: Folder | Synthetic = field(default_factory=Synthetic)
    learn: Learn = field(default_factory=Learn)
    sets: tuple[Folder | Synthetic, ...] = ()
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Multiples:
    round_to: Literal["auto"] | dict[str, int | Literal["auto"]] = field(default_factory=dict)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistakes(tree: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tree, Recipe)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"The configuration has {len(lines)} mistake")
    return [line.removeprefix("  - ") for line in lines]


def test_nested_dataclasses_tuples_unions_and_paths_are_built_from_yaml(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.yaml",
        "name: a\ndata: {kind: folder, path: speech/dev}\n"
        "learn: {rate: 1e-4, layers: [0, 4], temperature: {qk: 0.5}, clip: auto}\n"
        "sets: [{kind: synthetic}, {kind: folder, path: x, suffixes: [.ogg]}]\n",
    )
    assert load(path, Recipe) == Recipe(
        name="a",
        data=Folder(path=Path("speech/dev")),
        learn=Learn(rate=0.0001, layers=(0, 4), temperature={"qk": 0.5}, clip="auto"),
        sets=(Synthetic(), Folder(path=Path("x"), suffixes=(".ogg",))),
    )


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    tree = {
        "nam": "a",
        "data": {"kind": "foldr"},
        "learn": {
            "steps": 0, "rat": 1, "precision": "fp23", "betas": [0.9], "temperature": {"qk": "hot"},
            "drop": 1.0,
        },
        "sets": [{"kind": "folder"}, {"voices": 2}],
        "resume": "perhaps",
    }  # fmt: skip
    assert mistakes(tree) == [
        "name: missing, expected text.",
        "data.kind: expected 'folder' or 'synthetic', got 'foldr'. Did you mean 'folder'?",
        "learn.steps: expected an integer > 0, got 0.",
        "learn.drop: expected a number >= 0 and < 1, got 1.0.",
        "learn.precision: expected 'fp32' or 'bf16', got 'fp23'. Did you mean 'fp32'?",
        "learn.betas: expected a list of 2 items: a number, a number, got [0.9].",
        "learn.temperature.qk: expected a number, got 'hot'.",
        "learn.rat: unknown key. Did you mean 'rate'? Allowed here: steps, rate, drop, precision, betas, "
        "layers, temperature, clip.",
        "sets[0].path: missing, expected a path.",
        "sets[1].kind: missing, expected 'folder' or 'synthetic'.",
        "resume: expected true or false, got 'perhaps'.",
        "nam: unknown key. Did you mean 'name'? Allowed here: name, data, learn, sets, resume.",
    ]


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ({"steps": True}, "learn.steps: expected an integer > 0, got true."),
        ({"steps": 1.5}, "learn.steps: expected an integer > 0, got 1.5."),
        ({"clip": "never"}, "learn.clip: expected a number, 'auto' or null, got 'never'."),
        ({"layers": [1, 1]}, "learn: layers: got [1, 1], allowed is each layer once."),
        ({"drop": "x"}, "learn.drop: expected a number >= 0 and < 1, got 'x'."),
        ({"layers": "x"}, "learn.layers: expected null or a list, each item an integer, got 'x'."),
        (3, "learn: expected a mapping with steps, rate, drop, precision, betas, layers, "
            "temperature and clip, got 3."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence(learn: Any, message: str) -> None:
    assert mistakes({"name": "a", "learn": learn}) == [message]


def test_a_number_where_text_is_wanted_is_told_to_be_quoted() -> None:
    assert mistakes({"name": 3}) == ["name: expected text, got 3. Put it in quotes."]


def test_what_looks_like_a_date_is_text() -> None:
    assert parse_scalar("2026-11-21") == "2026-11-21"
    assert parse_scalar("0.5") == 0.5


def test_a_base_is_merged_below_and_lists_are_replaced(tmp_path: Path) -> None:
    learn = "{steps: 5, layers: [0, 1, 2], temperature: {qk: 1, vo: 2}}"
    write(
        tmp_path / "a/root.yaml",
        f"name: root\nlearn: {learn}\n",
    )
    write(tmp_path / "a/mid.yaml", "base: root.yaml\nlearn: {layers: [3]}\n")
    leaf = write(tmp_path / "b/leaf.yaml", "base: ../a/mid.yaml\nname: leaf\nlearn: {temperature: {vo: 3}}\n")
    loaded_config = load(leaf, Recipe)
    assert loaded_config == Recipe(name="leaf", learn=Learn(steps=5, layers=(3,), temperature={"qk": 1.0, "vo": 3.0}))


def test_a_mapping_of_another_kind_replaces_the_one_below() -> None:
    assert merge({"d": {"kind": "a", "x": 1}}, {"d": {"kind": "b", "y": 2}}) == {"d": {"kind": "b", "y": 2}}
    assert merge({"d": {"kind": "a", "x": 1}}, {"d": {"y": 2}}) == {"d": {"kind": "a", "x": 1, "y": 2}}


def test_recipes_are_found_by_their_packaged_names_and_bases_too(tmp_path: Path) -> None:
    write(tmp_path / "wang2023/recipe.yaml", "name: wang\nlearn: {steps: 7}\n")
    write(tmp_path / "wang2023/no_ste.yaml", "base: wang2023\nname: ablation\n")
    assert load("wang2023", Recipe, search=tmp_path).name == "wang"
    ablation = load("wang2023/no_ste", Recipe, search=tmp_path)
    assert (ablation.name, ablation.learn.steps) == ("ablation", 7)
    with pytest.raises(ConfigError, match=r"wang2032: there is no such recipe.*Did you mean 'wang2023'\?"):
        load("wang2032", Recipe, search=tmp_path)


def test_a_circle_of_bases_is_an_error_that_shows_it(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load(tmp_path / "a.yaml", Recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nlearn: {steps: 3\nresume: true\n", r"r\.yaml, line 3, column \d+: not YAML"),
        ("name: a\nlearn:\n  steps: 3\n  steps: 4\n", r"line 4, column 3: not YAML: the key 'steps' is"),
        ("- a\n", r"got a list at the top, allowed is a mapping"),
        ("name: !!python/object:os.system a\n", r"line 1, column \d+: not YAML"),
        ("base: [a, b]\n", r"base: got \['a', 'b'\], allowed is the path or the name of one other recipe"),
        ("base: missing.yaml\n", r"missing\.yaml: there is no such recipe"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path / "r.yaml", text), Recipe)


def test_overrides_come_last_and_may_be_dotted(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: a\nlearn: {steps: 3, rate: 2}\n")
    loaded_config = load(path, Recipe, {"learn.steps": 9, "learn": {"drop": 0.5}, "data": Folder(path=Path("x"))})
    assert loaded_config.learn == Learn(steps=9, rate=2.0, drop=0.5)
    assert loaded_config.data == Folder(path=Path("x"))


def test_a_base_in_a_mapping_is_read_and_the_mapping_is_left_alone(tmp_path: Path) -> None:
    tree = {"base": str(write(tmp_path / "r.yaml", "name: a\n")), "resume": True}
    assert load(tree, Recipe) == Recipe(name="a", resume=True)
    assert "base" in tree


@pytest.mark.parametrize("rate", [1e-4, 1e-5, 3.0, float("inf"), 1 / 3])
def test_dump_writes_every_default_and_load_reads_it_back(tmp_path: Path, rate: float) -> None:
    recipe = Recipe(
        name="no",
        data=Folder(path=Path("a b/c")),
        learn=Learn(rate=rate, layers=(1, 2), clip="auto", temperature={"on": 1.0}),
        sets=(Synthetic(voices=2),),
    )
    text = dump(recipe)
    assert load(write(tmp_path / "r.yaml", text), Recipe) == recipe
    for name in ("betas", "precision", "resume", "suffixes"):
        assert f"{name}:" in text


def test_a_config_made_in_python_can_be_checked_as_a_recipe_is() -> None:
    recipe = Recipe(name="a", data=Folder(path=Path("x")), sets=(Synthetic(),))
    assert check(recipe) == recipe
    with pytest.raises(ConfigError, match=r"learn\.steps: expected an integer > 0, got 0\."):
        check(Recipe(name="a", learn=Learn(steps=0)))


def test_an_instance_cannot_be_changed_after_loading() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({"name": "a"}, Recipe).name = "b"  # type: ignore[misc]


def test_a_mapping_without_a_kind_is_of_the_default_one_where_that_has_all_its_keys() -> None:
    assert load({"name": "a", "data": {"voices": 9}}, Recipe).data == Synthetic(voices=9)
    assert mistakes({"name": "a", "data": {"path": "x"}}) == ["data.kind: missing, expected 'folder' or 'synthetic'."]


@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        ("outo", "round_to: expected 'auto' or a mapping of text to an integer or 'auto', got 'outo'. Did you mean"),
        (8, "round_to: expected 'auto' or a mapping of text to an integer or 'auto', got 8."),
        ({"qk": "atuo"}, "round_to.qk: expected an integer or 'auto', got 'atuo'. Did you mean 'auto'?"),
        ({"qk": 1.5}, "round_to.qk: expected an integer or 'auto', got 1.5."),
    ],
)
def test_a_mistake_in_a_word_or_mapping_is_told_at_its_place(value: Any, mistake: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"round_to": value}, Multiples)
    assert mistake in str(caught.value)
