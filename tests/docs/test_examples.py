"""Every example of README.md and docs/ runs: shell commands and Python in order, YAML as a part of a recipe.

The commands are those of the page. What they name is there, in miniature: `microsoft/wavlm-base` is a folder with a
tiny random model, `LibriSpeech` one with a few seconds of noise. Only the scale is added to the commands (`SCALE`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from pruning_toy import noise, write_teacher
from transducer_toy import write_encoders

import secateur
from secateur import config as configs
from secateur.cli.main import main
from secateur.compress.config import PruneConfig
from secateur.hf.load import load_model
from secateur.pipeline import RECIPES
from secateur.structure import Selection

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Two steps of each phase, on batches as short as the audio. In front of an example's own flags, which therefore win.
SCALE = {
    "prune": [
        *["--learn.steps", "2", "--learn.precision", "fp32", "--recover.steps", "2", "--recover.precision", "fp32"],
        *["--batching", "{seconds: 2.0, longest: 1.5, shortest: 0.1, accumulate: 1}", "--validation.seconds", "1"],
    ],
    "pretrain": [
        *["--encoder.fields", "{hidden_size: 16, num_hidden_layers: 2, intermediate_size: 24, num_mel_bins: 16}"],
        *["--warmup", "1", "--seconds", "1.0", "--crop", "0.4", "--loop.steps", "2", "--loop.precision", "fp32"],
    ],
}
#: Commands that set up a machine: CI runs them as they are (.ci/run), not this test.
SET_UP = "python3 -m venv"


@dataclass(frozen=True)
class Example:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield Example(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything that the examples name exists."""
    folder = tmp_path_factory.mktemp("examples")
    write_teacher(folder / "microsoft" / "wavlm-base", size="base")
    write_teacher(folder / "facebook" / "wav2vec2-base", "wav2vec2", "base")
    (folder / "recordings").mkdir()
    for index in range(12):
        soundfile.write(folder / "recordings" / f"{index:02}.wav", noise(index), 16_000)
    for speaker, subset in enumerate(("train-clean-100", "train-clean-360", "dev-clean", "test-clean")):
        chapter = folder / "LibriSpeech" / subset / str(speaker) / "2"
        chapter.mkdir(parents=True)
        for index in range(12):
            soundfile.write(chapter / f"{speaker}-2-{index:04}.flac", noise(index), 16_000)
        transcripts = [f"{speaker}-2-{index:04} {('AB', 'BA', 'A B')[index % 3]}\n" for index in range(12)]
        (chapter / f"{speaker}-2.trans.txt").write_text("".join(transcripts))
    (folder / "my.yaml").write_text(
        "base: peng2023/mac\ndata: {path: LibriSpeech}\nvalidation: {data: {path: LibriSpeech}}\n"
    )
    _write_streaming_transducer(folder)
    return folder


def _write_streaming_transducer(folder: Path) -> None:
    """Write `runs/rnnt`, a run that ends in a streaming transducer with several lookaheads."""
    encoders = write_encoders(folder / "encoders", texts={})
    data = f"{{kind: jsonl, path: {json.dumps(str(encoders / 'speech' / 'manifest.jsonl'))}}}"
    command = ["prune", "kumar2025/streaming/joint/l0", "--model", str(encoders / "streaming"), "--data", data]
    assert main(scaled([*command, "--validation.data", "null", "--out", str(folder / "runs" / "rnnt")])) == 0
    lookaheads = json.dumps({"supported_num_lookahead_tokens": [0, 1, 6, 13]})
    (folder / "runs" / "rnnt" / "model" / "processor_config.json").write_text(lookaheads)


def scaled(words: list[str]) -> list[str]:
    """Return the words of a command with the flags of `SCALE` right behind the verb and its recipe."""
    verb, rest = words[0], words[1:]
    recipe = [rest.pop(0)] if rest and not rest[0].startswith("--") else []
    scale = list(SCALE.get(verb, []))
    if recipe and recipe[0].startswith(("kumar2025/joint", "kumar2025/streaming/joint")):
        scale += ["--task.width", "12"]
    if recipe and recipe[0].startswith("kumar2025"):
        scale += ["--target", "0.7"]  # of so small a model less cannot be reached
    given = {word for word in rest if word.startswith("--")}
    pairs = zip(scale[::2], scale[1::2], strict=True)
    return [verb, *recipe, *(word for name, value in pairs if name not in given for word in (name, value)), *rest]


def run_shell(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    """Run each command of a block, and check that it succeeds."""
    for line in example.text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.startswith(SET_UP):
            continue
        assert words[0] == "secateur", f"{example.place}: {line!r} is no command of ours"
        status = main(scaled(words[1:]))
        captured = capsys.readouterr()
        assert status == 0, f"{example.place}: {line!r} ended with {status}: {captured.err[-2000:]}"


def check_yaml(example: Example) -> None:
    """Load the parts of recipes in a block: one for each line that begins with `data:`, else the block."""
    lines = example.text.splitlines()
    parts = lines if all(line.startswith("data:") for line in lines) else [example.text]
    base = "kumar2025" if "predictor" in example.text else "peng2023"
    for part in parts:
        fields: dict[str, Any] = yaml.safe_load(part)
        if all(any(key.startswith("target") for key in entry) for entry in fields.get("constraints", [{}])):
            fields["target"] = None  # of the whole recipe, which each constraint replaces
        recipe = configs.load({"base": str(RECIPES / base / "recipe.yaml")} | fields, PruneConfig)
        assert isinstance(recipe, PruneConfig), example.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(
    page: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    teacher = load_model(world / "microsoft" / "wavlm-base")
    variables: dict[str, Any] = {"secateur": secateur, "teacher": teacher, "model": teacher}
    for example in examples(page):
        match example.language:
            case "sh":
                run_shell(example, capsys)
            case "python":
                exec(compile(example.text, example.place, "exec"), variables)
            case "yaml":
                check_yaml(example)
            case "json":
                Selection.from_json(json.loads(example.text))
            case language:
                pytest.fail(f"{example.place}: a block of the language {language!r}, expected sh, python, yaml or json")


def test_readme_has_examples_of_each_kind() -> None:
    languages = {example.language for example in examples(ROOT / "README.md")}
    assert languages == {"sh", "python"}


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "benchmarks/README.md"))], ids=str
)
def test_files_that_a_page_names_exist(page: Path) -> None:
    pattern = r"\b((?:tests|benchmarks|findings|tools|docs|src/secateur)/[\w/.-]*\w\.(?:py|sh|md|yaml|json|jsonl))\b"
    names = set(re.findall(pattern, page.read_text(encoding="utf-8")))
    missing = sorted(name for name in names if not (ROOT / name).exists())
    assert not missing
