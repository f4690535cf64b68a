"""BEST-RQ as a task: masks, loss, metric, and the saved head beside an encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pruning_toy import input_features_of
from safetensors.torch import load_file, save_file
from support import tiny, tiny_structure
from torch import Tensor, nn
from transformers import Wav2Vec2Config

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError, ModelError
from secateur.hf.declare import declare
from secateur.hf.frame_counts import frames_of
from secateur.tasks.best_rq import BestRqSettings
from secateur.tasks.best_rq_head import HEAD_FILE, save_best_rq_head
from secateur.tasks.best_rq_task import BestRq, BestRqTask, MaskedTargets, build_best_rq
from secateur.tasks.noise_mask import NoiseMask
from secateur.tasks.task import EncoderInfo

SETTINGS = BestRqSettings(
    frame_codebooks=2, plain_codebooks=1, crop_codebooks=0, entries=8, width=4, mask_span=2, visible_weight=0.5
)
FEATURES = tiny_structure("parakeet_encoder", "base")
WIDTH = 12


def corpus() -> Corpus:
    """Return three utterances, including a too short one."""
    lengths = {"a": 9600, "b": 100, "c": 12_000}
    utterances = tuple(Utterance(id=name, path=f"{name}.wav", samples=count) for name, count in lengths.items())

    def read(utterance: Utterance) -> Any:
        rng = np.random.default_rng(ord(utterance.id))
        return (0.1 * rng.standard_normal(utterance.samples)).astype(np.float32)

    return Corpus("toy", utterances, (), read)


def build_toy(
    source: Path | str = "nowhere", settings: BestRqSettings | None = SETTINGS, width: int = WIDTH
) -> BestRqTask:
    """Return the task for a tiny FastConformer."""

    def find_file(name: str) -> Path | None:
        path = Path(source) / name
        return path if path.is_file() else None

    encoder_info = EncoderInfo(input_features=input_features_of(FEATURES), structure=FEATURES, find_file=find_file)
    return build_best_rq(
        BestRq(settings=settings), source=source, width=width, corpus=corpus(), encoder_info=encoder_info
    )


def batch(rows: int, positions: int = 80) -> AudioBatch:
    """Return a batch of random features with equal length."""
    values = torch.randn(rows, positions, 16, generator=torch.Generator().manual_seed(1))
    ids = tuple(map(str, range(rows)))
    return AudioBatch(values=values, lengths=torch.full((rows,), positions), ids=ids, mask=None)


def step_targets(task: BestRqTask, key: tuple[int, ...], rows: int = 4) -> Any:
    return task.step_targets([], [task.noise_mask.frames(80)] * rows, key=key)


def test_what_is_hidden_follows_from_the_key_and_the_place_in_the_step_alone() -> None:
    task, audio = build_toy(), batch(4)
    full_result = step_targets(task, (0, 0, 7)).make_batch(audio, range(4))
    assert 0 < full_result.targets.mask.sum() < full_result.targets.mask.numel()
    for places in ((0, 3), (2, 1)):  # as another accumulation, or another rank, would have them
        subset = list(places)
        part = step_targets(task, (0, 0, 7)).make_batch(replace(audio, values=audio.values[subset]), places)
        assert torch.equal(part.inputs.values, full_result.inputs.values[subset])
        assert torch.equal(part.targets.mask, full_result.targets.mask[subset])
        assert part.targets.balance == full_result.targets.balance
    for alternative in ((0, 0, 8), (1, 0, 7), (0, 1, 7)):
        assert not torch.equal(
            step_targets(task, alternative).make_batch(audio, range(4)).targets.mask, full_result.targets.mask
        )


def test_only_hidden_frames_are_changed_and_what_is_asked_is_of_what_was_there() -> None:
    task, audio = build_toy(), batch(4)
    masked_batch = step_targets(task, (0, 0, 1)).make_batch(audio, range(4))
    hidden = masked_batch.targets.mask.repeat_interleave(8, dim=1)  # the middle of frame t is position 8 t
    changed = (masked_batch.inputs.values != audio.values).any(-1)
    assert torch.equal(changed[:, :76], hidden[:, 4:])
    assert torch.equal(masked_batch.targets.values, audio.values)


def test_the_loss_is_the_cross_entropy_of_each_frame_by_hand() -> None:
    task, audio = build_toy(), batch(3)
    targets = step_targets(task, (0, 0, 2), rows=3)
    masked_targets: MaskedTargets = targets.make_batch(audio, range(3)).targets
    state = torch.randn(3, masked_targets.mask.shape[1], WIDTH)
    result = task.loss(state, torch.tensor([10] * 3), masked_targets) / targets.count
    weight, bias = task.head.get_parameter("weight"), task.head.get_parameter("bias")
    weight, bias, labels = weight.detach(), bias.detach(), task.labeler(audio.values)
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for row, frame in np.ndindex(*masked_targets.mask.shape):
        logits = (weight @ state[row, frame] + bias).view(3, 8)
        item = [float(logits[book].logsumexp(0) - logits[book, labels[row, frame, book]]) for book in range(3)]
        first_item = sums[bool(masked_targets.mask[row, frame])]
        first_item[0], first_item[1] = first_item[0] + sum(item) / 3, first_item[1] + 1
    by_hand = sums[True][0] / sums[True][1] + 0.5 * sums[False][0] / sums[False][1]
    assert float(result.detach()) == pytest.approx(by_hand, rel=1e-5)
    scorer = task.metric()
    with torch.no_grad():
        scorer.update(task.code_logits(state), torch.tensor([10] * 3), masked_targets)
    assert scorer.compute()["masked_loss"] == pytest.approx(sums[True][0] / sums[True][1], rel=1e-5)


def test_a_layer_that_knows_the_labels_scores_one() -> None:
    task, audio = build_toy(), batch(2)
    masked_targets = step_targets(task, (0, 0, 3), rows=2).make_batch(audio, range(2)).targets
    sure = 50.0 * nn.functional.one_hot(task.labeler(audio.values), 8).float()
    scorer = task.metric()
    scorer.update(sure, torch.tensor([10, 10]), masked_targets)
    assert scorer.compute() == {"masked_accuracy": 1.0, "masked_loss": pytest.approx(0.0, abs=1e-6)}


@pytest.mark.parametrize("family", ["parakeet_encoder", "nemotron_asr_streaming_encoder", "wav2vec2-bert"])
def test_frames_are_counted_as_the_library_counts_them(family: str) -> None:
    noise_mask, model = NoiseMask(tiny_structure(family, "base")), tiny(family, "base")
    for positions in range(9, 60):
        assert noise_mask.frames(positions) == int(frames_of(model, torch.tensor([positions])))


def test_samples_are_labeled_at_unit_variance_whether_or_not_the_model_normalizes() -> None:
    noise_mask = NoiseMask(declare(Wav2Vec2Config(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)))
    shifted = 0.3 + 0.1 * torch.randn(2, 4000)
    normalized = noise_mask.label_inputs(shifted)
    torch.testing.assert_close(normalized.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std(1), torch.ones(2), atol=2e-3, rtol=0)
    torch.testing.assert_close(noise_mask.label_inputs(normalized), normalized, atol=1e-4, rtol=1e-4)


def saved_tensors(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Save a head and a labeler, as pre-training does, and return the tensors of the file."""
    task = build_toy(settings=replace(SETTINGS, **changes))
    folder.mkdir(exist_ok=True)
    save_best_rq_head(folder, head=task.head, labeler=task.labeler)
    return load_file(folder / HEAD_FILE)


def test_a_saved_head_beside_an_encoder_is_loaded(tmp_path: Path) -> None:
    tensors = saved_tensors(tmp_path, seed=5)
    with torch.no_grad():
        tensors["layer.weight"].add_(1.0)
        tensors["labels.mean"].add_(1.0)
    metadata = {"settings": '{"kind": "best_rq", "seed": 5, "frame_codebooks": 2, "plain_codebooks": 1, '}
    metadata["settings"] += '"crop_codebooks": 0, "entries": 8, "width": 4, "mask_span": 2}'
    save_file(tensors, tmp_path / HEAD_FILE, metadata=metadata)
    masked_targets = replace(SETTINGS, seed=5, mask_share=0.2, mask_span=3)  # how much is hidden may change
    for settings in (None, masked_targets):
        task = build_toy(tmp_path, settings)
        assert (task.new_head, task.notes) == (False, ())
        assert torch.equal(task.head.get_parameter("weight"), tensors["layer.weight"])
        assert torch.equal(task.labeler.mean, tensors["labels.mean"])
        assert task.settings.mask_span == (2 if settings is None else 3)


def test_a_saved_head_for_other_labels_is_not_used_and_a_note_gives_the_reason(tmp_path: Path) -> None:
    saved_tensors(tmp_path)
    other_value = build_toy(tmp_path, replace(SETTINGS, entries=6, seed=1))
    assert other_value.new_head
    assert other_value.notes == (
        f"the BEST-RQ head is newly initialized: the head of {str(tmp_path)!r} was trained with other settings "
        "(entries: 8, now 6, seed: 0, now 1)",
    )
    new_task = build_toy(tmp_path / "elsewhere")
    assert new_task.new_head
    assert new_task.notes == (
        f"the BEST-RQ head is newly initialized: there is no saved head beside {str(tmp_path / 'elsewhere')!r}",
    )
    assert float(new_task.labeler.spread.min()) != 1.0  # measured on the corpus
    assert build_toy(tmp_path / "elsewhere", None).settings == BestRqSettings(crop_codebooks=0)


def test_a_new_layer_is_the_same_every_time() -> None:
    initial_setting = torch.get_rng_state()
    first, repeated = build_toy().head.state_dict(), build_toy().head.state_dict()
    assert all(torch.equal(value, repeated[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), initial_setting)


def test_a_file_of_another_encoder_or_a_damaged_one_is_refused_in_a_sentence(tmp_path: Path) -> None:
    saved_tensors(tmp_path)
    with pytest.raises(
        ModelError,
        match=r"belongs to another encoder than the one beside it: weight has the shape \(24, 12\), expected",
    ):
        build_toy(tmp_path, None, width=20)
    save_file(load_file(tmp_path / HEAD_FILE), tmp_path / HEAD_FILE)
    with pytest.raises(ModelError, match=r"damaged or holds no BEST-RQ head \(no settings in its metadata\)"):
        build_toy(tmp_path, None)
    (tmp_path / HEAD_FILE).write_bytes(b"new_task")
    with pytest.raises(ModelError, match="damaged or holds no BEST-RQ head"):
        build_toy(tmp_path, None)
    with pytest.raises(ModelError, match="is missing, damaged"):
        build_toy().restore(tmp_path / "elsewhere")


def test_what_a_task_saves_it_restores(tmp_path: Path) -> None:
    first, second = build_toy(), build_toy(settings=replace(SETTINGS, mask_share=0.3))
    with torch.no_grad():
        first.head.get_parameter("weight").add_(1.0)
    first.save(tmp_path)
    second.restore(tmp_path)
    assert torch.equal(second.head.get_parameter("weight"), first.head.get_parameter("weight"))
    assert torch.equal(second.labeler.spread, first.labeler.spread)


def test_encoders_that_labels_are_not_made_for_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"conv_stride: got a front end with windows of .* samples every 160"):
        NoiseMask(tiny_structure("wav2vec2", "base"))
    with pytest.raises(ConfigError, match="crop_codebooks: got 2, expected 0 for an encoder that takes features"):
        build_toy(settings=replace(SETTINGS, crop_codebooks=2))
