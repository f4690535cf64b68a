"""What a run is made from, and what it says of kinds that its model lacks."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from support import build, tiny_config, tiny_structure

from secateur.compress.config import FromFile, PruneConfig, TrainingConfig
from secateur.compress.phases import _loop_config
from secateur.compress.run_context import filter_corpus, prepare_run
from secateur.compress.targets import pruned_axes
from secateur.data.corpus import Corpus, Utterance
from secateur.data.sources import FolderData
from secateur.errors import ConfigError, ModelError
from secateur.gates import HardConcrete
from secateur.hf.declare import declare
from wav2vec2_axes import positional_groups

GATES = {"units": HardConcrete(), "groups": HardConcrete()}
SENTENCE = "this data2vec-audio model has no axis of the kind groups: it is passed over"


def test_a_kind_that_a_family_lacks_is_passed_over_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert positional_groups() in pruned_axes(PruneConfig(gates=GATES), tiny_structure("hubert", "base"))
        assert not caplog.messages
        gated = pruned_axes(PruneConfig(gates=GATES), tiny_structure("data2vec-audio", "base"))
        assert caplog.messages == [SENTENCE]
        pruned_axes(PruneConfig(gates=GATES, choose=FromFile(path="s.json")), tiny_structure("data2vec-audio", "base"))
        assert len(caplog.messages) == 1  # where a file chooses, nothing is gated
    assert gated == {f"encoder.layers.{layer}.feed_forward/units" for layer in range(3)}


def test_only_kinds_that_a_family_lacks_leave_nothing_to_prune() -> None:
    with pytest.raises(ConfigError, match="No axis of this model is of the kinds groups that are to be pruned"):
        pruned_axes(PruneConfig(gates={"groups": HardConcrete()}), tiny_structure("data2vec-audio", "base"))


def test_a_model_whose_finite_weights_overflow_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    teacher = build(tiny_config("wav2vec2", "base"))
    with torch.no_grad():
        teacher.encoder.layers[0].feed_forward.output_dense.weight.mul_(1e38)
    teacher.save_pretrained(tmp_path)
    config = PruneConfig(model=str(tmp_path), data=FolderData(path=str(tmp_path / "nothing")))
    with pytest.raises(ModelError, match="gives NaN or infinite values for noise, although its weights are finite"):
        prepare_run(config, make_latency_table=lambda *_: pytest.fail("measured"))


def test_utterances_that_give_no_frame_are_counted_and_left_out_without_a_task_too() -> None:
    rows = tuple(Utterance(id=str(n), path=f"{n}.wav", samples=n) for n in (8000, 200, 3, 9000))
    corpus = Corpus(name="toy", utterances=rows, skipped=(), read=lambda utterance: pytest.fail("read"))
    structure = tiny_structure("wavlm", "base")
    assert [structure.lengths(entry.samples)[-1] > 0 for entry in rows] == [True, True, False, True]
    remaining, notes = filter_corpus(None, corpus, structure)
    assert [entry.id for entry in remaining.utterances] == ["8000", "200", "9000"]
    assert notes == ("toy: 1 of 4 utterances left out: is too short for one frame",)
    assert [skip.path for skip in remaining.skipped] == ["3"]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_single_window_under_a_group_norm_counts_as_no_frame(norm: str) -> None:
    """The library's GroupNorm refuses it, so that no utterance of one may reach a model."""
    first_item = {"conv_dim": [16], "conv_kernel": [80], "conv_stride": [80], "feat_extract_norm": norm}
    model = build(tiny_config("wav2vec2", "base", **first_item))
    structure = declare(model.config)
    assert structure.min_samples == (160 if norm == "group" else 80)
    assert structure.lengths(159)[-1] == (0 if norm == "group" else 1)
    model(torch.zeros(1, structure.min_samples))
    with pytest.raises((ValueError, RuntimeError)):
        model(torch.zeros(1, structure.min_samples - 1))


def test_tensorboard_reaches_the_loop_and_is_missed_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = TrainingConfig(tensorboard=True)
    assert _loop_config(recover, 0).tensorboard
    assert not _loop_config(TrainingConfig(), 0).tensorboard
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = PruneConfig(model="no/such-model", recover=recover)
    with pytest.raises(ConfigError, match="needs the package `tensorboard`"):
        prepare_run(config, make_latency_table=lambda config: pytest.fail("asked for times"))
