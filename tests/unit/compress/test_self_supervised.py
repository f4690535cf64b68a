"""Pruning by the loss of pre-training: what is hidden and labelled, what is learned, and the encoder that comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import LENGTHS, write_wavs
from safetensors.torch import load_file
from transducer_toy import ENCODER, STREAMING
from transformers import AutoModel, HubertConfig, HubertModel

from secateur import config as configs
from secateur.compress.config import PruneConfig
from secateur.compress.distiller import DistillationModel
from secateur.compress.run_context import RunContext, prepare_run
from secateur.compress.step import DistillUnit, Objective
from secateur.data.input_features import ExtractedFeatures
from secateur.errors import ConfigError
from secateur.pipeline import choose, evaluate, pretrain, prune
from secateur.pretraining.encoder_from_config import ConfigEncoder, FromConfig
from secateur.records.run import RunRecord
from secateur.tasks.best_rq import BestRqSettings, loss
from secateur.tasks.best_rq_head import HEAD_FILE

SETTINGS = {"kind": "best_rq", "frame_codebooks": 2, "plain_codebooks": 1, "crop_codebooks": 0, "entries": 8}
SETTINGS |= {"width": 4, "mask_span": 2}
CONFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
SAMPLES = {"conv_dim": [4] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "parakeet_encoder": ENCODER,
    "nemotron_asr_streaming_encoder": ENCODER | STREAMING,
    "wav2vec2-bert": CONFORMER | {"position_embeddings_type": "relative_key"},
    "wav2vec2-conformer": CONFORMER | SAMPLES,
    "hubert": CONFORMER | SAMPLES | {"feat_extract_norm": "group"},
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of recordings without texts."""
    root = write_wavs(tmp_path_factory.mktemp("self_supervised") / "speech")
    splits = ["dev" if index % 4 == 3 else "train" for index in range(len(LENGTHS))]
    lines = [{"audio": f"u{i:02}.wav", "split": split} for i, split in enumerate(splits)]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / "manifest.jsonl"


@pytest.fixture(scope="module")
def encoders(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder of each family, pre-trained for two steps."""
    root = tmp_path_factory.mktemp("encoders")
    for model_type, fields in FAMILIES.items():
        recipe = {
            "out": str(root / model_type),
            "data": {"kind": "jsonl", "path": str(speech)},
            "task": SETTINGS,
            "encoder": {"kind": "config", "fields": {"model_type": model_type} | fields},
            "seconds": 1.0,
            "crop": 0.4,
            "loop": {"steps": 2},
        }
        pretrain(recipe)
    return root


def fields_of(model: Path, speech: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """A run of two steps in each phase."""
    return {
        "model": str(model),
        "out": str(out),
        "data": {"kind": "jsonl", "path": str(speech)},
        "validation": {"seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.4, "shortest": 0.1},
        "target": 0.8,
        "gates": {"units": {}, "heads": {}},
        "task": {"kind": "best_rq"},
        "distill": None,
        "learn": {"steps": 2, "log_every": 1},
        "recover": {"steps": 2, "log_every": 1},
    } | fields


def setting_of(encoders: Path, speech: Path, family: str = "parakeet_encoder", **fields: Any) -> RunContext:
    recipe = fields_of(encoders / family / "model", speech, Path("never")) | fields
    return prepare_run(
        configs.load(recipe, PruneConfig), make_latency_table=lambda config: pytest.fail("no latency is asked for")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_goes_on_with_what_pre_training_left_and_leaves_a_bare_encoder(
    family: str, encoders: Path, speech: Path, tmp_path: Path
) -> None:
    record = prune(fields_of(encoders / family / "model", speech, tmp_path / "run"))
    assert record.verification.holds
    assert record.data.notes == ()
    assert (record.task.kind, record.task.order) == ("best_rq", "pruned without labels")
    assert (record.task.headline, record.task.better) == ("masked_accuracy", "higher")
    assert [set(stage.scores) for stage in record.stages] == [{"masked_accuracy", "masked_loss"}] * 3
    assert all(0 < stage.scores["masked_loss"] < 5 for stage in record.stages)
    model, info = AutoModel.from_pretrained(tmp_path / "run" / "model", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert model.config.architectures == [type(model).__name__]
    initial_state, final_state = (
        load_file(folder / "model" / HEAD_FILE) for folder in (encoders / family, tmp_path / "run")
    )
    assert initial_state.keys() == final_state.keys()
    changed = {name for name, value in initial_state.items() if not torch.equal(value, final_state[name])}
    assert changed == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_those_of_pre_training_on_the_same_audio(family: str, encoders: Path, speech: Path) -> None:
    task: Any = setting_of(encoders, speech, family).task
    trained = ConfigEncoder(FromConfig(config=str(encoders / family / "model")), configs.load(SETTINGS, BestRqSettings))
    labeller = trained.make_labeler(task.settings)
    labeller.load_state_dict(task.labeler.state_dict())
    audio = torch.randn(2, 6400, generator=torch.Generator().manual_seed(3))
    audio = (audio - audio.mean(1, keepdim=True)) / audio.std(1, keepdim=True, correction=0)
    if trained.extractor is None:
        heard = audio
    else:  # as loud as pre-training makes it
        heard = ExtractedFeatures(trained.extractor)([0.1 * row.numpy() for row in audio])[0]
    assert torch.equal(task.labeler(task.noise_mask.label_inputs(heard)), labeller(trained.to_inputs(audio)))


def trainee_of(setting: RunContext) -> DistillUnit:
    task: Any = setting.task
    student = setting.make_student()
    objective = Objective(distill=setting.config.distill, task=task)
    imitator = DistillationModel(student, setting.config.distill, head=task.head)
    training = setting.config.recover
    created = DistillUnit(imitator, setting.teacher_view, setting.feed, setting.held_out_batches(), training, objective)
    created.optimizers()
    return created


def test_the_loss_and_its_gradients_are_the_same_for_any_accumulation(encoders: Path, speech: Path) -> None:
    result, gradients = [], []
    for accumulate in (1, 2, 3):
        batching = {"seconds": 1.5, "longest": 0.4, "shortest": 0.1, "accumulate": accumulate}
        trained = trainee_of(setting_of(encoders, speech, batching=batching))
        batches = trained.micro_batches(5, 0, 1)
        assert len(batches) == accumulate
        losses = [trained.loss(trained.module, batch).total for batch in batches]
        torch.stack(losses).sum().backward()
        result.append(float(torch.stack(losses).sum().detach()))
        gradients.append({name: value.grad for name, value in trained.module.named_parameters()})
    assert result[1:] == pytest.approx(result[:1] * 2, rel=1e-5)
    for name, full_gradients in gradients[0].items():
        for parts in gradients[1:]:
            assert (full_gradients is None) == (parts[name] is None)
            if full_gradients is not None:
                torch.testing.assert_close(parts[name], full_gradients, rtol=1e-3, atol=1e-6, msg=name)


def test_ranks_share_the_hidden_frames_of_one_step(encoders: Path, speech: Path) -> None:
    batching = {"seconds": 1.5, "longest": 0.4, "shortest": 0.1}
    feed = setting_of(encoders, speech, batching=batching).feed
    (full_batch,) = feed.micro_batches(3, 0, 1)
    rows = {name: place for place, name in enumerate(full_batch.inputs.ids)}
    parts = [feed.micro_batches(3, rank, 2)[0] for rank in range(2)]
    assert sorted(name for part in parts for name in part.inputs.ids) == sorted(rows)
    for part in parts:
        matching_rows = [rows[name] for name in part.inputs.ids]
        assert torch.equal(part.inputs.values, full_batch.inputs.values[matching_rows])
        assert torch.equal(part.task_targets.mask, full_batch.task_targets.mask[matching_rows])
        assert part.count == full_batch.count == int(full_batch.task_targets.mask.sum())


def test_the_loss_of_a_step_is_that_of_pre_training(encoders: Path, speech: Path) -> None:
    trained = trainee_of(setting_of(encoders, speech))
    (batch,) = trained.micro_batches(0, 0, 1)
    task: Any = trained.objective.task
    with torch.no_grad():
        total = trained.loss(trained.module, batch).total
        logits = task.code_logits(trained.module.student(batch.inputs.values).last_hidden_state)
    sums = loss(logits, task.labeler(batch.audio.values), batch.task_targets.mask)
    hidden = int(batch.task_targets.mask.sum())
    expected = sums.masked / hidden + 0.5 * sums.visible / (batch.task_targets.mask.numel() - hidden)
    torch.testing.assert_close(total, expected)


def test_nothing_is_padded_and_held_out_audio_is_hidden_alike_at_every_step(encoders: Path, speech: Path) -> None:
    setting = setting_of(encoders, speech)
    for step in range(6):
        for batch in setting.feed.micro_batches(step, 0, 1):
            assert batch.inputs.mask is None
            assert len(set(batch.inputs.lengths.tolist())) == 1
    trained = trainee_of(setting)
    first = trained.validate(0)
    trained.micro_batches(4, 0, 1)
    assert trained.validate(4) == first
    assert set(first) == {"loss", "masked_accuracy", "masked_loss"}
    for first_item, alternative in zip(setting.held_out_batches(), setting.held_out_batches(), strict=True):
        assert torch.equal(first_item.inputs.values, alternative.inputs.values)
        assert not torch.equal(first_item.inputs.values, first_item.audio.values)
    elsewhere = replace(setting, config=replace(setting.config, seed=1)).held_out_batches()
    assert not torch.equal(elsewhere[0].inputs.values, setting.held_out_batches()[0].inputs.values)


def test_a_teacher_hears_what_its_student_hears(encoders: Path, speech: Path) -> None:
    """So an untouched student is at no distance from it."""
    trained = trainee_of(setting_of(encoders, speech, distill={"pairing": {"kind": "fixed", "layers": [0, 2]}}))
    (batch,) = trained.micro_batches(0, 0, 1)
    parts = trained.loss(trained.module, batch).parts
    assert float(parts["distill"]) == pytest.approx(0.0, abs=1e-6)
    assert float(parts["task"]) > 0


def test_distillation_ranks_and_dense_training_go_beside_it(encoders: Path, speech: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "distill": {"pairing": {"kind": "fixed", "layers": [0, 2]}},
        "factorise": {"linears": ["q_proj", "linear1"]},
        "gates": {"rank": {"drop_rate": 0.5}},
        "finetune": {"steps": 1},
        "learn": {"steps": 2, "log_every": 1, "head_learning_rate": 1e-2},
    }
    model = encoders / "nemotron_asr_streaming_encoder" / "model"
    record = prune(fields_of(model, speech, tmp_path / "run", **fields))
    assert record.verification.holds
    assert set(record.stages[0].to_dict()) >= {"loss", "cosine", "scores"}
    layers = [
        load_file(tmp_path / "run" / name / HEAD_FILE)["layer.weight"] for name in ("finetuned", "learned", "model")
    ]
    assert not any(torch.equal(first_item, alternative) for first_item, alternative in pairwise(layers))
    chosen_units = choose(tmp_path / "run", constraint={"target": 0.9})
    assert torch.equal(load_file(Path(chosen_units.folder) / "model" / HEAD_FILE)["layer.weight"], layers[1])


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(encoders: Path, speech: Path, tmp_path: Path) -> None:
    """What comes of its model is scored by the layer that goes with it, and can be pruned again with that."""
    steps = {"steps": 3, "save_every": 1}
    model = encoders / "parakeet_encoder" / "model"

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if (progress.phase, progress.step) == ("recover", 2):
            raise Stop

    prune(fields_of(model, speech, tmp_path / "whole", learn=steps, recover=steps))
    parts = fields_of(model, speech, tmp_path / "parts", learn=steps, recover=steps)
    with pytest.raises(Stop):
        prune(parts, on_progress=stop)
    prune(parts, resume=True)
    for name in ("model.safetensors", HEAD_FILE):
        full_run, resumed = ((tmp_path / run / "model" / name).read_bytes() for run in ("whole", "parts"))
        assert full_run == resumed
    whole, parts_record = (RunRecord.read(tmp_path / run / "record.json") for run in ("whole", "parts"))
    assert [stage.scores for stage in whole.stages] == [stage.scores for stage in parts_record.stages]
    repeated = prune(fields_of(tmp_path / "whole" / "model", speech, tmp_path / "again", target=0.9))
    assert repeated.stages[0].scores == pytest.approx(whole.stages[-1].scores, rel=1e-4)


def test_other_settings_begin_a_new_layer_which_the_record_tells(encoders: Path, speech: Path, tmp_path: Path) -> None:
    model = encoders / "parakeet_encoder" / "model"
    settings = SETTINGS | {"entries": 6}
    record = prune(fields_of(model, speech, tmp_path / "run", task={"kind": "best_rq", "settings": settings}))
    assert record.data.notes == (
        f"the BEST-RQ head is newly initialized: the head of {str(model)!r} was trained with other settings "
        "(entries: 8, now 6)",
    )
    assert [bool(stage.scores) for stage in record.stages] == [False, True, True]  # it would have known nothing


def test_a_pre_trained_encoder_is_evaluated_by_its_own_loss(encoders: Path, speech: Path, tmp_path: Path) -> None:
    model = encoders / "parakeet_encoder" / "model"
    data = {"data.kind": "jsonl", "data.path": str(speech)}
    record = evaluate(model, fields=data | {"task.kind": "best_rq"})
    assert record.headline == "masked_accuracy"
    assert record.data.utterances == len(LENGTHS)
    assert 0 < record.scores["masked_loss"] < 5
    with pytest.raises(ConfigError, match="streaming, lookahead: expected only with the task 'rnnt'"):
        evaluate(model, fields=data | {"task.kind": "best_rq", "streaming": True})


def test_what_this_task_cannot_do_is_said_before_anything_is_trained(
    encoders: Path, speech: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"distill\.logits: this task leaves a bare encoder"):
        setting_of(encoders, speech, distill={"logits": {}, "pairing": {"kind": "fixed", "layers": [0, 2]}})
    crops = {"kind": "best_rq", "settings": SETTINGS | {"crop_codebooks": 1}}
    with pytest.raises(ConfigError, match="crop_codebooks: got 1, expected 0 for an encoder that takes features"):
        setting_of(encoders, speech, task=crops)
    HubertModel(HubertConfig(**CONFORMER | SAMPLES | {"conv_stride": [5, 2, 2, 2, 2, 2, 1]})).save_pretrained(
        tmp_path / "hop"
    )
    with pytest.raises(ConfigError, match=r"conv_stride: got a front end with windows of .* samples every 160"):
        setting_of(encoders, speech, model=str(tmp_path / "hop"))
