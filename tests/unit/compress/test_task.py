"""Pruning with a task: what is learned, in what order, and what comes out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pruning_toy import LENGTHS, noise, seeded_model, write_teacher, write_wavs
from safetensors.torch import load_file, save_file
from support import tiny_structure
from task_toy import tokenizer_folder
from torch import Tensor

from secateur import config as configs
from secateur.compress.audio_batches import MicroBatch
from secateur.compress.config import Distillation, PruneConfig, RegularizationConfig, TrainingConfig
from secateur.compress.distiller import DistillationModel
from secateur.compress.regularization import regularized
from secateur.compress.run_context import prepare_run
from secateur.compress.spec_augment import draw_masks, set_masks
from secateur.compress.step import DistillUnit, Objective
from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError, DataError, ModelError
from secateur.hf.load import load_model, with_head
from secateur.hf.model_view import ModelView
from secateur.losses.distances import LogitDistance
from secateur.nn.norm import replace_group_norm
from secateur.pipeline import prune, verify
from secateur.tasks import Classification, Ctc, build_task

WORDS = ("ab", "ba", "a b", "b", "aa", "abba")


def spoken() -> Corpus:
    """Twelve utterances with a short text and a label each."""
    utterances = tuple(
        Utterance(id=f"u{i}", path=f"u{i}.wav", samples=n, text=WORDS[i % 6], label="xyz"[i % 3])
        for i, n in enumerate(LENGTHS)
    )
    return Corpus(name="toy", utterances=utterances, skipped=(), read=lambda u: noise(int(u.id[1:])))


def batch(rows: tuple[int, ...]) -> MicroBatch:
    """Some utterances, padded, as a part of a step with all twelve."""
    corpus, structure = spoken(), tiny_structure("hubert", "base")
    lengths = torch.tensor([LENGTHS[row] for row in rows])
    values = torch.zeros(len(rows), int(lengths.max()), dtype=torch.float64)
    for place, row in zip(values, rows, strict=True):
        place[: LENGTHS[row]] = torch.from_numpy(noise(row))
    mask = (torch.arange(values.shape[1]) < lengths[:, None]).long() if len(rows) > 1 else None
    audio = AudioBatch(values=values, lengths=lengths, ids=tuple(f"u{row}" for row in rows), mask=mask)
    frames = sum(structure.lengths(n)[-1] for n in LENGTHS)
    transcript = tuple(corpus.utterances[row] for row in rows)
    return MicroBatch(audio=audio, inputs=audio, frames=frames, task_targets=transcript, count=7)


def trainee(config: Ctc | Classification, objective: dict[str, Any], *, recompute: bool = False) -> DistillUnit:
    """A student with a head that differs a little from its teacher, in float64."""
    corpus = spoken()
    base = seeded_model("hubert", "base")
    task = build_task(config, source=Path(__file__).parent, model_config=base.config, corpus=corpus)
    teacher = with_head(ModelView(base), task.head_class, task.fields(), seed=1).model.double()
    student = with_head(ModelView(base), task.head_class, task.fields(), seed=2).model.double()
    for model in (teacher, student):
        replace_group_norm(model.hubert)
    with torch.no_grad():
        for value in student.parameters():
            value.mul_(1.05)
    goal = Objective(task=task, **objective)
    feed: Any = None
    out = DistillUnit(
        DistillationModel(ModelView(student), goal.distill, gradient_checkpointing=recompute),
        ModelView(teacher),
        feed,
        [],
        TrainingConfig(steps=2),
        goal,
    )
    out.optimizers()
    return out


def gradients_of(trained: DistillUnit, rows: tuple[int, ...]) -> dict[str, Tensor]:
    """Of the loss of a batch, by parameter."""
    trained.module.zero_grad()
    loss_of(trained, rows)[0].backward()
    return {name: value.grad for name, value in trained.module.named_parameters() if value.grad is not None}


def loss_of(trained: DistillUnit, rows: tuple[int, ...]) -> tuple[Tensor, dict[str, float]]:
    result = trained.loss(trained.module, batch(rows))
    return result.total, {name: float(value) for name, value in result.parts.items()}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "task alone": {"distill": None},
    "hidden states, logits and task": {"distill": Distillation(logits=LogitDistance(temperature=2.0))},
    "logits without the task": {"distill": Distillation(weight=0.0, logits=LogitDistance()), "task_weight": 0.0},
}


@pytest.mark.parametrize("config", [Ctc(), Classification()], ids=["ctc", "classification"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_padded_batch_has_the_loss_of_its_utterances_alone(config: Ctc | Classification, name: str) -> None:
    """GroupNorm front ends too: neither the student nor the teacher, in its fast form, sees padding."""
    trained = trainee(config, OBJECTIVES[name])
    joint_result, parts = loss_of(trained, (0, 3, 5))
    item = [loss_of(trained, (row,)) for row in (0, 3, 5)]
    torch.testing.assert_close(joint_result, torch.stack([total for total, _ in item]).sum(), rtol=1e-9, atol=1e-9)
    for part, value in parts.items():
        assert value == pytest.approx(sum(result[part] for _, result in item), rel=1e-9)
        assert value > 0


def test_gradients_of_a_padded_batch_are_the_same_with_activations_computed_again() -> None:
    plain, repeated = (trainee(Ctc(), {"distill": None}, recompute=recompute) for recompute in (False, True))
    expected, result = gradients_of(plain, (0, 3, 5)), gradients_of(repeated, (0, 3, 5))
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_lengths_of_the_last_batch_do_not_outlive_a_phase() -> None:
    trained = trainee(Ctc(), {"distill": None})
    model = trained.module.student
    values = torch.from_numpy(noise(11)).double()[None]
    with torch.no_grad():
        initial_output = model(values).logits
        with regularized(lambda: ModelView(model), RegularizationConfig()):
            loss_of(trained, (0, 3, 5))
        assert torch.equal(model(values).logits, initial_output)


def test_ctc_is_what_the_library_computes() -> None:
    trained = trainee(Ctc(), {"distill": None})
    task: Any = trained.objective.task
    utterance = spoken().utterances[5]
    total, _ = loss_of(trained, (5,))
    written_text = task.target_tokens(utterance).tokens
    labels = torch.tensor([written_text])
    model = trained.module.student
    model.config.ctc_loss_reduction = "sum"
    with torch.no_grad():
        reference = model(batch((5,)).audio.values, labels=labels).loss
    assert float(total) * 7 == pytest.approx(float(reference), rel=1e-6)


def test_a_phase_is_random_only_as_its_training_says_and_the_model_is_as_before() -> None:
    model = with_head(ModelView(seeded_model("wavlm", "base")), "ForCTC", {"vocab_size": 5}, seed=0).model
    initial = model.config.to_dict()
    values = torch.from_numpy(noise(11))[None]

    def outputs(settings: RegularizationConfig) -> list[Tensor]:
        model.train()
        results = []
        for step in range(2):
            set_masks(model.wavlm, draw_masks(settings, [(step,)], [20], width=24))
            with torch.no_grad():
                results.append(model(values).logits)
        return results

    with regularized(lambda: ModelView(model), RegularizationConfig()):
        assert torch.equal(*outputs(RegularizationConfig()))
        assert not model.wavlm.masked_spec_embed.requires_grad
    for settings in (RegularizationConfig(dropout=0.5), RegularizationConfig(time_masks=0.5, time_mask_length=2)):
        with regularized(lambda: ModelView(model), settings, freeze_frontend=True):
            assert not torch.equal(*outputs(settings))
            assert not any(value.requires_grad for value in model.wavlm.feature_extractor.parameters())
    assert model.config.to_dict() == initial
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distill": None}, "distill: null: allowed with a task alone"),
        ({"finetune": TrainingConfig()}, "finetune: allowed with a task alone"),
        ({"task_weight": 0.5}, "task_weight: allowed with a task alone"),
        ({"learn": {"regularise": {"dropout": 0.1}}}, "learn.regularise: allowed with a task alone"),
        ({"recover": {"head_learning_rate": 1e-3}}, "recover.head_learning_rate: allowed with a task alone"),
        ({"distill": {"logits": {}}}, "distill.logits: allowed with a task alone"),
        ({"task": {"kind": "ctc"}, "distill": None, "task_weight": 0}, "nothing would be learned"),
        ({"task": {"kind": "ctc"}, "distill": {"weight": 0}, "task_weight": 0}, "nothing would be learned"),
        ({"distill": {"weight": 0}}, "nothing would be learned"),
        ({"task": {"kind": "ctc"}, "learn": {"regularise": {"layer_drop": 0.1}}}, "not dropped while gates learn"),
        ({"task": {"kind": "ctc"}, "learn": {"freeze_frontend": True}}, "its weights must learn"),
        ({"task": {"kind": "ctc"}, "finetune": {"steps": 0}}, "finetune.steps: got 0, allowed is >= 1"),
        ({"task": {"kind": "ctd"}}, "ctc"),
        (
            {"task": {"kind": "ctc"}, "learn": {"regularise": {"time_masks": 1.0}}},
            "time_masks: expected a number >= 0 and < 1, got 1.0",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.load(fields, PruneConfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and recordings with texts and labels."""
    root = tmp_path_factory.mktemp("task")
    write_teacher(root / "teacher", "wav2vec2", "base")
    speech = write_wavs(root / "speech")
    lines = [
        {"audio": f"u{i:02}.wav", "text": WORDS[i % 6], "label": "xyz"[i % 3], "split": ("train", "dev")[i % 4 == 3]}
        for i, _ in enumerate(LENGTHS)
    ]
    (speech / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def fields_of(folder: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """A run of two steps in each phase."""
    return {
        "model": str(folder / "teacher"),
        "out": str(out),
        "data": {"kind": "jsonl", "path": str(folder / "speech" / "manifest.jsonl"), "max_skipped": 0.5},
        "validation": {"seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.6, "shortest": 0.1},
        "constraints": [{"cost": "macs"}],
        "target": 0.5,
        "task": {"kind": "ctc"},
        "distill": None,
        "learn": {"steps": 2, "log_every": 1},
        "recover": {"steps": 2, "log_every": 1},
    } | fields


ORDERS: dict[str, tuple[dict[str, Any], str]] = {
    "while": ({}, "pruned while it was fine-tuned"),
    "after": (
        {"finetune": {"steps": 2}, "distill": {"logits": {}, "pairing": {"kind": "fixed", "layers": [0, 3]}}},
        "fine-tuned first, then pruned",
    ),
    "score": ({"choose": {"kind": "score", "kinds": ["channels", "heads", "units"]}}, "pruned while it was fine-tuned"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_with_ctc_leaves_a_model_that_recognises_and_is_verified(
    order: str, folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCTC, pipeline

    fields, words = ORDERS[order]
    record = prune(fields_of(folder, tmp_path / "run", **fields))
    assert record.task.order == words
    assert record.verification.holds
    names = [stage.name for stage in record.stages if "wer" in stage.scores]
    assert names == (["shrunk", "recovered"] if order != "after" else ["dense", "shrunk", "recovered"])
    assert (tmp_path / "run" / "report.html").is_file()
    model = AutoModelForCTC.from_pretrained(tmp_path / "run" / "model")
    assert type(model).__name__ == "SecateurWav2Vec2ForCTC"
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path / "run" / "model"))
    assert set(recognise(noise(3))["text"]) <= set("ab ")
    long = np.concatenate([noise(3)] * 9)  # chunks, each with context on both sides
    assert isinstance(recognise(long, chunk_length_s=0.5, stride_length_s=0.1)["text"], str)
    assert [check.name for check in verify(tmp_path / "run").checks if not check.holds] == []


def with_weights(teacher: Path, path: Path, weights: dict[str, Tensor], *, architecture: str) -> Path:
    """A copy of a teacher whose file has other weights too, and whose config names another class."""
    shutil.copytree(teacher, path)
    state = load_file(path / "model.safetensors") | weights
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text()) | {"architectures": [architecture]}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_run_with_classification_leaves_a_model_that_classifies(folder: Path, tmp_path: Path) -> None:
    """From a checkpoint that lacks the head which its config names, and has something else beside its encoder."""
    from transformers import AutoModelForAudioClassification, pipeline

    sibling = {"final_proj.weight": torch.ones(2, 24), "classifier.dense.weight": torch.ones(4, 24)}
    name = "Wav2Vec2ForSequenceClassification"
    teacher = with_weights(folder / "teacher", tmp_path / "teacher", sibling, architecture=name)
    record = prune(fields_of(folder, tmp_path / "run", model=str(teacher), task={"kind": "classification"}))
    assert record.task.order == "pruned while it was fine-tuned"
    lost_value, result, remaining = record.data.notes
    assert f"its config names, {name} (missing classifier.bias" in lost_value
    assert "weights beside its encoder" in result
    assert remaining == "classifier (1 weights beside the encoder) is left out: the model has a new head of that name"
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.equal(weights["final_proj.weight"], sibling["final_proj.weight"])
    assert set(record.stages[-1].scores) == {"accuracy", "macro_f1"}
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "run" / "model")
    assert sorted(model.config.label2id) == ["x", "y", "z"]
    result = pipeline("audio-classification", model=str(tmp_path / "run" / "model"))(noise(3))
    assert {entry["label"] for entry in result} == {"x", "y", "z"}


def test_a_fine_tuned_checkpoint_keeps_its_head_and_its_letters(folder: Path, tmp_path: Path) -> None:
    first = prune(fields_of(folder, tmp_path / "first"))
    assert first.task is not None
    assert first.task.order == "pruned while it was fine-tuned"
    repeated = prune(fields_of(folder, tmp_path / "again", model=str(tmp_path / "first" / "model"), target=0.9))
    assert repeated.task.order == "pruned as it came, fine-tuned"
    initial, final = (load_model(tmp_path / name / "model").config.vocab_size for name in ("first", "again"))
    assert initial == final
    vocabularies = [(tmp_path / name / "model" / "vocab.json").read_text() for name in ("first", "again")]
    assert json.loads(vocabularies[0]) == json.loads(vocabularies[1])


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(folder: Path, tmp_path: Path) -> None:
    """Dropout and dropped layers draw from generators, whose states are in the checkpoint; masks from the step."""
    random = {"dropout": 0.2, "time_masks": 0.3, "time_mask_length": 2}
    fields: dict[str, Any] = {
        "finetune": {"steps": 4, "save_every": 1, "regularise": random | {"layer_drop": 0.5}},
        "learn": {"steps": 2, "save_every": 1, "regularise": random},
    }

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.phase == "finetune" and progress.step == 2:
            raise Stop

    prune(fields_of(folder, tmp_path / "whole", **fields))
    with pytest.raises(Stop):
        prune(fields_of(folder, tmp_path / "parts", **fields), on_progress=stop)
    prune(fields_of(folder, tmp_path / "parts", **fields), resume=True)
    full_run, parts = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert full_run == parts


def test_masks_that_cannot_be_are_told_before_anything_is_learned(folder: Path, tmp_path: Path) -> None:
    wide = {"regularise": {"feature_masks": 0.1, "feature_mask_length": 25}}
    with pytest.raises(ConfigError, match=r"recover\.regularise\.feature_mask_length: got 25, allowed is 1 to 24"):
        prune(fields_of(folder, tmp_path / "run", recover=wide))
    assert not (tmp_path / "run" / "learned").exists()


def test_utterances_that_get_shorter_masks_of_time_are_counted(folder: Path, tmp_path: Path) -> None:
    long = {"regularise": {"time_masks": 0.1, "time_mask_length": 14}}
    config = configs.load(fields_of(folder, tmp_path / "run", recover=long), PruneConfig)
    setting = prepare_run(config, make_latency_table=lambda config: pytest.fail("asked for times"))
    training = [samples for index, samples in enumerate(LENGTHS) if index % 4 != 3]
    short = sum(tiny_structure("wav2vec2", "base").lengths(samples)[-1] < 28 for samples in training)
    assert 0 < short < len(training)
    assert setting.notes == (
        f"manifest/train: {short} of {len(training)} utterances have fewer than 28 frames, and get time masks of half "
        "their frames instead of 14",
    )


def test_utterances_that_are_too_long_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    batching = {"seconds": 1.0, "longest": 0.35, "shortest": 0.1}
    record = prune(fields_of(folder, tmp_path / "run", batching=batching))
    long = [skip for skip in record.data.skipped if "longer than batching.longest" in skip.reason]
    training = [samples for index, samples in enumerate(LENGTHS) if index % 4 != 3]
    assert len(long) == sum(samples > 5600 for samples in training)  # held-out ones are heard whole
    assert record.data.notes == (f"manifest/train: {len(long)} utterances above 0.35 s left out",)
    with pytest.raises(DataError, match=r"longer than batching\.longest, 0\.15 s"):
        prune(fields_of(folder, tmp_path / "none", batching=batching | {"longest": 0.15}))


def test_utterances_of_a_test_split_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    finished_results = (folder / "speech" / "manifest.jsonl").read_text().splitlines()
    splits = ["test" if index % 6 == 1 else "train" for index in range(len(finished_results))]
    lines = [json.loads(line) | {"split": split} for line, split in zip(finished_results, splits, strict=True)]
    speech = tmp_path / "speech"
    shutil.copytree(folder / "speech", speech)
    (speech / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"kind": "jsonl", "path": str(speech / "manifest.jsonl"), "max_skipped": 0.5}
    record = prune(fields_of(folder, tmp_path / "run", data=data))
    num_remaining = splits.count("test")
    assert f"manifest: {num_remaining} utterances of test splits neither learned from nor held out" in record.data.notes


def test_a_corpus_without_texts_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text"):
        prune(fields_of(folder, tmp_path / "run", data={"kind": "folder", "path": str(folder / "speech")}))
    assert not (tmp_path / "run" / "learned").exists()


def test_logits_of_a_head_that_knows_nothing_are_not_imitated(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no head for this task to imitate"):
        prune(fields_of(folder, tmp_path / "run", distill={"logits": {}}))


def test_a_head_that_is_no_numbers_is_refused_where_the_run_uses_it(folder: Path, tmp_path: Path) -> None:
    head = {"lm_head.weight": torch.full((9, 24), float("nan")), "lm_head.bias": torch.zeros(9)}
    teacher = with_weights(folder / "teacher", tmp_path / "a", head, architecture="Wav2Vec2ForCTC")
    tokenizer_folder(teacher, ["<pad>", "<unk>", "|", *"abcdef"])

    def setting(**fields: Any) -> Any:
        fields = fields_of(folder, tmp_path / "run", model=str(teacher), **fields)
        return prepare_run(
            configs.load(fields, PruneConfig), make_latency_table=lambda config: pytest.fail("asked for times")
        )

    with pytest.raises(ModelError, match=r"216 of the 216 values of lm_head\.weight are NaN or infinite"):
        setting()
    for used in (setting(task={"kind": "classification"}), setting(task=None, distill={})):
        assert all(bool(value.isfinite().all()) for value in used.teacher.parameters())


def test_a_new_head_that_nothing_would_teach_is_refused(folder: Path, tmp_path: Path) -> None:
    pairing = {"kind": "fixed", "layers": [0, 3]}
    with pytest.raises(ConfigError, match=r"task_weight: got 0, but .* has no head for this task yet"):
        prune(fields_of(folder, tmp_path / "run", task_weight=0, distill={"pairing": pairing}))
    assert not (tmp_path / "run").exists()


def test_the_loss_is_divided_by_the_labels_of_the_whole_step() -> None:
    trained = trainee(Ctc(), {"distill": None})
    first_item, recut_model = (
        trained.loss(trained.module, replace(batch((0, 1)), count=count)).total for count in (7, 14)
    )
    assert float(first_item) == pytest.approx(2 * float(recut_model))


def test_a_head_for_another_task_gives_way_to_a_new_one_and_is_told(folder: Path, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher", "wavlm", "base", "ForXVector")
    fields = fields_of(folder, tmp_path / "run", model=str(teacher), task={"kind": "classification"})
    setting = prepare_run(
        configs.load(fields, PruneConfig), make_latency_table=lambda config: pytest.fail("asked for times")
    )
    assert type(setting.teacher).__name__.endswith("WavLMForSequenceClassification")
    assert (
        f"the head of {str(teacher)!r}, a WavLMForXVector, is left out, since this task has a new one" in setting.notes
    )
