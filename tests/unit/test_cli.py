"""Every verb through the command line: figures, JSON, exit codes, and one clear sentence for each mistake."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from prune_job import recipe
from pruning_toy import write_teacher, write_wavs
from safetensors.torch import load_file, save_file

from secateur.benchmarking import process_settings
from secateur.cli import command
from secateur.cli.console_tables import format_score, print_table
from secateur.cli.main import main
from secateur.cli.verb import BAD_INPUT, BROKEN_CONTRACT
from secateur.engine import checkpoint
from secateur.records.choice import ChooseRecord, ShrinkRecord
from secateur.records.cost_record import ProfileRecord
from secateur.records.finding import Finding
from secateur.records.run import RunRecord
from secateur.records.score import ScoreInfo
from secateur.records.verification import VerificationCheck, VerifyRecord

Run = tuple[int, str, str]


def test_a_score_is_a_percentage_unless_it_is_a_loss() -> None:
    infos = {"perplexity": ScoreInfo(title="perplexity", is_share=False)}
    names = ("wer", "masked_loss", "perplexity")
    assert [format_score(name, 3.7876, infos) for name in names] == ["378.76%", "3.7876", "3.7876"]
    assert format_score("wer", None, {}) == ""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another family beside the recipe's, recordings, and a finished run."""
    root = tmp_path_factory.mktemp("cli")
    write_wavs(root / "speech")
    write_teacher(root / "teacher")
    write_teacher(root / "hubert", "hubert", "base")
    fields = recipe(root, root / "run", target=0.6)
    for phase in ("learn", "recover"):
        fields[phase] |= {"steps": 2, "save_every": 1}
    (root / "recipe.yaml").write_text(yaml.safe_dump(fields))
    assert main(["prune", str(root / "recipe.yaml")]) == 0
    return root


@pytest.fixture
def run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in a folder of its own; `@` stands for the folder with teacher and run."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def command(*words: str) -> Run:
        code = main([word.replace("@", str(root)) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return command


def test_a_command_starts_itself_again_with_a_tuned_malloc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []

    def execve(path: str, words: list[str], environment: dict[str, str]) -> None:
        started.append((words, environment))
        raise KeyboardInterrupt

    for name in process_settings.MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_settings.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("os.execve", execve)
    words = ["prune", "no such recipe.yaml"]
    monkeypatch.setattr("sys.argv", ["secateur", *words])
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "secateur", *words])
    assert main() == BAD_INPUT  # of somebody else's process nothing is changed
    assert not started
    assert command() == 130
    assert started[0][0][1:] == ["-X", "secateur_restarted", "-m", "secateur", *words]
    assert process_settings.MALLOC_SETTINGS.items() <= started[0][1].items()
    monkeypatch.setattr("sys.argv", ["secateur", "prune", "--default-settings", "--no-such-field", "1"])
    assert command() == BAD_INPUT
    assert len(started) == 1


def copy_of(root: Path, name: str) -> Path:
    """A copy of the finished run, with a recipe file that resumes it."""
    folder = root / name
    shutil.copytree(root / "run", folder)
    for source_path, target_path in (
        (root / "recipe.yaml", root / f"{name}.yaml"),
        (folder / "recipe.yaml", folder / "recipe.yaml"),
    ):
        target_path.write_text(source_path.read_text().replace(str(root / "run"), str(folder)))
    return folder


def test_a_broken_line_of_the_contract_leaves_the_model_and_is_told_by_the_exit_code(
    root: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_check = VerificationCheck(name="bfloat16", holds=False, detail="off [by] far")
    monkeypatch.setattr("secateur.surgery.verify.contract_checks", lambda subject, *, compile: [failed_check])
    folder = copy_of(root, "broken")
    for name in ("verified.json", "stages.json", "record.json", "report.html"):
        (folder / name).unlink()
    shutil.rmtree(folder / "model")
    code, _, err = run("prune", "@/broken.yaml", "--resume")
    assert code == BROKEN_CONTRACT
    assert err.count("bfloat16: off [by] far") == 1
    assert "an error in secateur" not in err
    assert (folder / "model" / "model.safetensors").is_file()
    record = RunRecord.read(folder / "record.json")
    assert record.verification is not None
    assert (record.verification.proven, record.verification.holds) == (True, False)
    assert "1 check of the drop-in contract failed" in (folder / "report.html").read_text()
    code, out, _ = run("verify", "@/broken")
    assert code == BROKEN_CONTRACT
    assert "FAILS  bfloat16: off [by] far" in out
    shrink = ("--selection", "@/broken/selection.json", "--out", "small")
    code, out, _ = run("shrink", "@/teacher", *shrink)
    assert code == BROKEN_CONTRACT
    assert Path("small/model.safetensors").is_file()


def test_prune_leaves_a_whole_run_folder(root: Path) -> None:
    names = {path.name for path in (root / "run").iterdir()}
    assert names == {
        "checkpoints",
        "choice.json",
        "learned",
        "metrics.jsonl",
        "model",
        "recipe.yaml",
        "record.json",
        "report.html",
        "selection.json",
        "stages.json",
        "timings.jsonl",
        "verified.json",
    }


def test_prune_prints_the_table_and_as_json_the_record(root: Path, run: Any) -> None:
    # A finished run that is resumed has nothing left to do but to print.
    code, out, _ = run("prune", "@/recipe.yaml", "--resume")
    assert code == 0
    for word in ("parameters", "MACs", "time", "held-out", "dense", "shrunk", "recovered", "report.html"):
        assert word in out
    code, out, _ = run("prune", "@/recipe.yaml", "--resume", "--json")
    assert code == 0
    record = RunRecord.from_dict(json.loads(out))
    assert record.to_dict() == json.loads(out)
    assert record.kind == "prune"
    assert [stage.name for stage in record.stages] == ["dense", "shrunk", "recovered"]
    saved_record = RunRecord.read(root / "run" / "record.json")
    assert replace(saved_record, folder=record.folder) == record


def test_choose_again_meets_another_target(root: Path, run: Any) -> None:
    code, out, _ = run("choose", "@/run", "--target", "0.5", "--out", "again", "--json")
    assert code == 0
    record = ChooseRecord.from_dict(json.loads(out))
    dense = RunRecord.read(root / "run" / "record.json").constraints[0].dense
    assert dense is not None
    assert record.counted["parameters-whole"] <= 0.5 * dense
    state = load_file("again/model/model.safetensors")
    assert sum(value.numel() for value in state.values()) == record.counted["parameters-whole"]
    assert record.verification is not None
    assert record.verification.holds


def test_choose_again_rounds_sizes_and_tells_what_that_cost(root: Path, run: Any) -> None:
    multiples = "{qk: 3, vo: 2, units: 5, channels: auto}"
    words = ("choose", "@/run", "--target", "0.5", "--round-to", multiples, "--device", "cuda", "--out")
    code, out, _ = run(*words, "rounded")
    assert code == 0
    assert "What rounding cost" in out
    record = ChooseRecord.from_dict(json.loads(run(*words, "again", "--json")[1]))
    rounding = record.rounding
    assert rounding is not None
    assert rounding.multiples == {"qk": 3, "vo": 2, "units": 5, "channels": 8}
    (shares,) = [line for line in out.splitlines() if "than without rounding" in line]
    assert f"{abs(rounding.given_up['parameters-whole']):.2%}" in shares
    sizes = {name: len(units) for name, units in json.loads(Path("again/selection.json").read_text())["axes"].items()}
    assert {size % 5 for name, size in sizes.items() if name.endswith("/units")} == {0}
    assert {size % 3 for name, size in sizes.items() if name.endswith(".qk")} == {0}
    assert {size for name, size in sizes.items() if name.endswith("/channels")} == {5, 6, 7}  # whole: smaller than 8
    assert record.counted["parameters-whole"] == sum(
        value.numel() for value in load_file("again/model/model.safetensors").values()
    )
    words = ("choose", "@/run", "--target", "0.5", "--out", "plain", "--json")
    baseline_record = ChooseRecord.from_dict(json.loads(run(*words)[1]))
    assert baseline_record.rounding is None
    dense = RunRecord.read(root / "run" / "record.json").constraints[0].dense
    assert dense is not None
    difference = baseline_record.counted["parameters-whole"] - record.counted["parameters-whole"]
    assert rounding.given_up["parameters-whole"] == pytest.approx(difference / dense)


def test_shrink_profile_and_verify_agree_on_the_counts(root: Path, run: Any) -> None:
    selection = "@/run/selection.json"
    code, out, _ = run("shrink", "@/teacher", "--selection", selection, "--out", "small", "--json")
    assert code == 0
    final = ShrinkRecord.from_dict(json.loads(out)).after
    code, out, _ = run("profile", "small", "--json")
    assert code == 0
    profile = ProfileRecord.from_dict(json.loads(out))
    assert (profile.parameters, profile.macs) == (final.parameters, final.macs)
    code, out, _ = run("profile", "@/teacher", "--selection", selection, "--seconds", "1", "--json")
    assert ProfileRecord.from_dict(json.loads(out)).parameters == final.parameters
    code, out, _ = run("verify", "small", "--against", "@/teacher")
    assert code == 0
    assert out.count("holds ") >= 8
    code, out, _ = run("shrink", "@/teacher", "--selection", selection, "--out", "small", "--force")
    assert code == 0
    assert "kept" in out


def test_verify_says_so_when_a_weight_is_wrong(run: Any) -> None:
    assert run("shrink", "@/teacher", "--selection", "@/run/selection.json", "--out", "small")[0] == 0
    path = Path("small/model.safetensors")
    state = load_file(path)
    state["encoder.layers.0.final_layer_norm.weight"] *= 1.01
    save_file(state, path, metadata={"format": "pt"})
    code, out, _ = run("verify", "small", "--against", "@/teacher", "--json")
    assert code == BROKEN_CONTRACT
    failed = [check.name for check in VerifyRecord.from_dict(json.loads(out)).broken]
    assert failed == ["cut model equals masked model"]


def test_verify_of_a_run_proves_the_cut_and_the_contract(run: Any) -> None:
    code, out, _ = run("verify", "@/run")
    assert code == 0
    assert "holds  cut model equals masked model" in out


def test_a_pretrained_encoder_is_told_and_lies_there(root: Path, run: Any) -> None:
    shape = {"model_type": "parakeet_encoder", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 8, "subsampling_conv_channels": 4, "num_mel_bins": 8}
    words = ["chiu2022", "--data", "{kind: folder, path: @/speech}", "--encoder.fields", json.dumps(shape)]
    words += ["--loop.steps", "2", "--loop.precision", "fp32", "--seconds", "1", "--crop", "0.4", "--task.entries", "8"]
    code, out, _ = run("pretrain", *words, "--out", "encoder")
    assert (code, out) == (0, "The encoder lies in encoder/model.\n")
    assert (Path("encoder") / "model" / "config.json").is_file()


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[bold]", ("[red]target",), [["[/]"], ["[0.5]"]])
    out = capsys.readouterr().out
    assert all(word in out for word in ("[bold]", "[red]target", "[/]", "[0.5]"))


def test_report_is_written_again(run: Any) -> None:
    code, out, _ = run("report", "@/run", "--out", "page.html", "--json")
    assert code == 0
    assert json.loads(out) == {"report": "page.html"}
    assert (
        Path("page.html").read_text().startswith("<!doctype html>".upper()) or "<html" in Path("page.html").read_text()
    )


def test_doctor_prints_findings(run: Any) -> None:
    code, out, _ = run("doctor", "--json")
    findings = [Finding.from_dict(finding) for finding in json.loads(out)]
    assert code == (BROKEN_CONTRACT if any(finding.status == "problem" for finding in findings) else 0)
    assert [finding.to_dict() for finding in findings] == json.loads(out)


def test_help_loads_no_torch() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'transformers', 'pydantic'}"
    code = (
        f"import sys; from secateur.cli.main import main\ntry: main(WORDS)\nfinally: print({heavy} & set(sys.modules))"
    )
    for words in (["--help"], ["prune", "--help"], ["--print-completion", "bash"]):
        script = code.replace("WORDS", repr(words))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip().endswith("set()")


MISTAKES: list[tuple[list[str], str]] = [
    (["prun"], "Unknown verb 'prun'; allowed are prune, … Did you mean 'prune'?"),
    (["profile", "@/teacher", "--secnds", "3"], "Unknown argument '--secnds' for profile. Did you mean '--seconds'?"),
    (["profile", "@/teacher", "--seconds", "x"], "invalid float value: 'x'"),
    (["profile", "@/teacher", "--seconds", "-1"], "seconds: got -1, allowed is above 0"),
    (["profile"], "The following arguments are required: model"),
    (["profile", "./nowhere"], "There is no config.json in 'nowhere': give a model folder"),
    (["prune", "quikstart"], "quikstart: there is no such recipe; allowed is the path of a YAML file or one of"),
    (["prune", "@/recipe.yaml", "--out", "out", "--lern.steps", "3"], "lern: unknown key. Did you mean 'learn'?"),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--learn.stepz", "3"],
        "learn.stepz: unknown key. Did you mean 'steps'?",
    ),
    (["prune", "@/recipe.yaml", "--out", "out", "--learn.steps", "0"], "learn.steps: expected an integer >= 1, got 0."),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--recover.steps", "-1"],
        "recover.steps: expected an integer >= 0, got -1.",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--learn.steps", "many"],
        "learn.steps: expected an integer",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--target", "0"],
        "target: expected a number > 0 and <= 1 or null, got 0",
    ),
    (["prune", "@/recipe.yaml", "--out", "out", "--target", "0.001"], "smallest reachable share is 0.07"),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--data.kind", "foldr"],
        "data.kind: expected 'synthetic', 'folder', … got 'foldr'. Did you mean 'folder'?",
    ),
    (["prune", "@/recipe.yaml", "--out", "out", "--data.path", "nowhere"], "Folder nowhere does not exist"),
    (["prune", "@/recipe.yaml", "--out", "out", "--gates.unit.drop_rate", "0.1"], "Did you mean 'units'?"),
    (["prune", "@/recipe.yaml", "--out", "out", "--distill.pairing.layers", "[9]"], "numbers from 1 to 3, the depth"),
    (["prune", "@/recipe.yaml", "--out", "out", "--choose", "{kind: score, kinds: [qv]}"], "Unknown kind of axis 'qv'"),
    (["prune", "@/recipe.yaml", "--out", "out", "--choose", "{kind: file, path: x}"], "There is no selection file 'x'"),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--choose.round_to", "{chanels: 8}"],
        "expected a kind of channels, qk, vo, units, rank, predictor, joiner, got 'chanels'. Did you mean 'ch",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--choose.round_to.units", "0"],
        "choose.round_to.units: expected an integer >= 1 or 'auto', got 0.",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--choose.round_to.units", "-8"],
        "choose.round_to.units: expected an integer >= 1 or 'auto', got -8.",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--gates.units", "null", "--choose.round_to.units", "2"],
        "names 'units', which this run does not prune; it prunes channels, groups, qk, vo",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--choose.device", "cuba"],
        "expected 'cpu' or 'cuda', got 'cuba'. Did you mean",
    ),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--choose.round_to", "{channels: 6}", "--target", "0.08"],
        "raise the target, round to smaller multiples or gate more kinds of axes",
    ),
    (["prune", "@/recipe.yaml", "--out", "out", "--batching.accumulate", "99"], "one batch needs 99"),
    (["prune", "@/recipe.yaml", "--out", "out", "--target"], "--target needs a value"),
    (["prune", "@/recipe.yaml", "--out", "--resume"], "--out needs a value"),
    (["prune", "@/recipe.yaml", "--out", "out", "--target", ""], "--target needs a value, got nothing; write null"),
    (["evaluate", "@/teacher", "--model", "@/hubert"], "--model: the model is given already"),
    (["prune", "@/recipe.yaml", "--out", "out", "--target", "["], "'[' is not a YAML value"),
    (["prune", "@/recipe.yaml", "--out", "@/teacher"], "exists and is not a run folder"),
    (["prune", "@/recipe.yaml"], "is in use: add --resume to go on with it"),
    (
        ["prune", "@/recipe.yaml", "--resume", "--learn.clip", "3"],
        "another recipe (see its recipe.yaml; other now: learn.clip)",
    ),
    (["shrink", "@/teacher", "--selection", "x.json", "--out", "out"], "There is no selection file 'x.json'"),
    (["shrink", "@/hubert", "--selection", "@/run/selection.json", "--out", "out"], "made for a 'wavlm' model"),
    (
        ["shrink", "@/teacher", "--selection", "@/run/selection.json", "--out", "out", "--layout", "stok"],
        "Unknown layout",
    ),
    (
        ["shrink", "@/teacher", "--selection", "@/run/selection.json", "--out", "out", "--layout", "stock"],
        "does not fit the",
    ),
    (
        ["shrink", "@/teacher", "--selection", "@/run/selection.json", "--out", "@/run/model"],
        "exists already and is not",
    ),
    (["choose", "@/teacher", "--target", "0.5"], "has no learned/ folder"),
    (
        ["choose", "@/run", "--target", "0.5", "--cost", "flops"],
        "expected 'parameters', 'macs' or 'latency', got 'flops'",
    ),
    (["choose", "@/run", "--target", "0.5", "--scope", "encodr"], "Did you mean 'encoder'?"),
    (["choose", "@/run", "--target", "0.01"], "smallest reachable share"),
    (["choose", "@/run", "--target", "0.5", "--round-to", "{unit: 2}"], "Did you mean 'units'?"),
    (["choose", "@/run", "--target", "0.5", "--round-to", "["], "'[' is not a YAML value"),
    (["verify", "@/teacher"], "is not a run folder: give one, or add --against"),
    (["verify", "@/run/model", "--against", "@/hubert"], "made for a 'wavlm' model"),
    (["report", "nowhere"], "nowhere/record.json: there is no such file"),
    (["profile", "@/run"], "give a model folder, a config or a hub id. The model of this run is '"),
    (
        ["prune", "@/recipe.yaml", "--out", "out", "--validation.data", "{kind: folder, path: x}"],
        "validation.data: Folder x does not exist.",
    ),
    (["pretrain", "tiny_teacher", "--loop.stepz", "3"], "loop.stepz: unknown key. Did you mean 'steps'?"),
]


@pytest.mark.parametrize(
    ("words", "sentence"), MISTAKES, ids=lambda value: "" if isinstance(value, str) else " ".join(value)
)
def test_a_mistake_ends_in_one_sentence_and_leaves_nothing(run: Any, words: list[str], sentence: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (BAD_INPUT, "")
    assert "\nsecateur: " in "\n" + err
    for part in sentence.split(" … "):
        assert part in err
    assert list(Path.cwd().iterdir()) == []


FILES: list[tuple[str, str, list[str], str]] = [
    ("r.yaml", "learn: [", ["prune", "r.yaml"], "not YAML"),
    ("r.yaml", "- 1\n", ["prune", "r.yaml"], "got a list at the top"),
    ("r.yaml", "base: r.yaml\n", ["prune", "r.yaml"], "leads in a circle"),
    ("s.json", "{", ["shrink", "@/teacher", "--selection", "s.json", "--out", "out"], "is not readable JSON"),
    ("s.json", "[]", ["shrink", "@/teacher", "--selection", "s.json", "--out", "out"], "JSON object with"),
    (
        "s.json",
        '{"format": 1, "axes": {"encoder.layers.0.attention/head": []}}',
        ["shrink", "@/teacher", "--selection", "s.json", "--out", "out"],
        "Unknown axis 'encoder.layers.0.attention/head' in the selection for this wavlm model. Did you mean",
    ),
    (
        "s.json",
        '{"format": 1, "axes": {"encoder.layers.0.attention/heads": [7]}}',
        ["shrink", "@/teacher", "--selection", "s.json", "--out", "out"],
        "unit 7 is not one of 0..3",
    ),
    ("c.json", '{"model_type": "hubrt"}', ["profile", "c.json"], "Model type 'hubrt' is not supported; allowed are"),
    ("c.json", "{", ["profile", "c.json"], "is not readable JSON"),
    (
        "c.json",
        '{"model_type": "hubert", "num_attention_heads": 0}',
        ["profile", "c.json"],
        "The config describes no hubert model that can be built",
    ),
    ("c.json", '{"model_type": "hubert", "num_hidden_layers": 0}', ["profile", "c.json"], "at least 1 is needed"),
    ("record.json", "x", ["report", "."], "not a JSON record"),
]


@pytest.mark.parametrize(("name", "text", "words", "sentence"), FILES)
def test_garbage_in_a_file_ends_in_one_sentence(
    run: Any, name: str, text: str, words: list[str], sentence: str
) -> None:
    Path(name).write_text(text)
    code, out, err = run(*words)
    assert (code, out) == (BAD_INPUT, "")
    assert sentence in err
    assert [path.name for path in Path.cwd().iterdir()] == [name]


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        ("checkpoints/learn-0000002/meta.json", "the checkpoint is damaged"),
        ("checkpoints/learn-0000002/state.safetensors", "Delete that folder to resume from the checkpoint before"),
        ("learned/gates.safetensors", "is missing or damaged"),
        ("learned/model.safetensors", "cannot be loaded"),
        ("selection.json", "is not readable JSON"),
        ("metrics.jsonl", "phase and step on each line, got 'garbage'"),
        ("recipe.yaml", "was started with another recipe"),
    ],
)
def test_a_damaged_run_folder_is_told_when_it_is_resumed(root: Path, run: Any, damaged: str, sentence: str) -> None:
    folder = copy_of(root, "damaged-" + damaged.replace("/", "-").split(".")[0])
    shutil.rmtree(folder / "model")
    if "learn-" in damaged or "metrics" in damaged:
        shutil.rmtree(folder / "learned")
    if "gates" in damaged:
        (folder / "selection.json").unlink()
    (folder / damaged).write_text("garbage\n")
    code, _, err = run("prune", f"{folder}.yaml", "--resume")
    assert code == BAD_INPUT
    assert sentence in err
    assert not (folder / "model").exists()


def test_a_run_without_its_model_is_told_by_verify(root: Path, run: Any) -> None:
    folder = copy_of(root, "unfinished")
    shutil.rmtree(folder / "model")
    code, _, err = run("verify", str(folder))
    assert code == BAD_INPUT
    assert "has no model/ yet: finish it" in err


def test_a_teacher_whose_numbers_overflow_is_refused_before_anything_is_learned(root: Path, run: Any) -> None:
    shutil.copytree(root / "teacher", "teacher")
    state = load_file("teacher/model.safetensors")
    state["encoder.layers.2.final_layer_norm.weight"].mul_(1e38)  # finite, but what comes of it overflows
    save_file(state, "teacher/model.safetensors", metadata={"format": "pt"})
    code, _, err = run("prune", "@/recipe.yaml", "--out", "out", "--model", "teacher")
    assert code == BAD_INPUT
    assert "gives NaN or infinite values for noise, although its weights are finite" in err
    assert not Path("out").exists()


def test_numbers_that_stop_being_finite_keep_the_last_good_checkpoint(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.compress.step import DistillUnit

    original = DistillUnit.loss

    def poisoned(self: Any, wrapped: Any, batch: Any) -> Any:
        result = original(self, wrapped, batch)
        bad = torch.is_grad_enabled() and getattr(self, "drawn_steps", 0) >= 1
        return type(result)(
            total=result.total * torch.nan if bad else result.total, parts=result.parts, files=result.files
        )

    def counted(self: Any, step: int, reduce: Any, end: Any = DistillUnit.end) -> Any:
        self.drawn_steps = getattr(self, "drawn_steps", 0) + 1
        return end(self, step, reduce)

    monkeypatch.setattr(DistillUnit, "loss", poisoned)
    monkeypatch.setattr(DistillUnit, "end", counted)
    code, _, err = run("prune", "@/recipe.yaml", "--out", "out")
    assert code == BAD_INPUT
    assert "Step 2: got a loss of nan" in err
    assert "the last good checkpoint is out/checkpoints/recover-0000001" in err
    assert sorted(path.name for path in Path("out/checkpoints").iterdir()) == [
        "learn-0000001",
        "learn-0000002",
        "recover-0000001",
    ]


def test_a_full_disk_names_the_last_good_checkpoint(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = checkpoint.save_file, [0]

    def full(*arguments: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] > 2:  # two files each
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", full)
    code, _, err = run("prune", "@/recipe.yaml", "--out", "out")
    assert code == BAD_INPUT
    assert "No space left on device" in err
    assert "the last good checkpoint is out/checkpoints/learn-0000001" in err
    assert [path.name for path in Path("out/checkpoints").iterdir()] == ["learn-0000001"]
    monkeypatch.undo()


def test_recover_steps_of_zero_mean_no_recover_phase(root: Path, run: Any) -> None:
    folder = copy_of(root, "bare")
    for path in (folder / "recipe.yaml", root / "bare.yaml"):
        fields = yaml.safe_load(path.read_text())
        fields["recover"]["steps"] = 0
        path.write_text(yaml.safe_dump(fields, sort_keys=False))
    shutil.rmtree(folder / "model")
    for checkpoint_folder in (folder / "checkpoints").glob("recover-*"):
        shutil.rmtree(checkpoint_folder)
    code, out, _ = run("prune", "@/bare.yaml", "--resume", "--json")
    assert code == 0
    record = RunRecord.from_dict(json.loads(out))
    assert [phase.name for phase in record.phases] == ["learn"]
    shrunk, recovered = record.stages[1:]
    assert recovered.loss == pytest.approx(shrunk.loss)
