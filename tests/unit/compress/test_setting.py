"""What a run is made from, and what it says of kinds that its model lacks."""

from __future__ import annotations

import logging
import sys

import pytest
from support import tiny_structure

from secateur.compress.config import FromFile, PruneConfig, Training
from secateur.compress.pruned import gated_in
from secateur.compress.run import _loop
from secateur.compress.setting import prepare
from secateur.errors import ConfigError
from secateur.gates import HardConcrete
from secateur.structure.wav2vec2 import positional_groups

GATES = {"units": HardConcrete(), "groups": HardConcrete()}
SENTENCE = "this data2vec-audio model has no axis of the kind groups: it is passed over"


def test_a_kind_that_a_family_lacks_is_passed_over_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert positional_groups() in gated_in(PruneConfig(gates=GATES), tiny_structure("hubert", "base"))
        assert not caplog.messages
        gated = gated_in(PruneConfig(gates=GATES), tiny_structure("data2vec-audio", "base"))
        assert caplog.messages == [SENTENCE]
        gated_in(PruneConfig(gates=GATES, choose=FromFile(path="s.json")), tiny_structure("data2vec-audio", "base"))
        assert len(caplog.messages) == 1  # where a file chooses, nothing is gated
    assert gated == {f"encoder.layers.{layer}.feed_forward/units" for layer in range(3)}


def test_only_kinds_that_a_family_lacks_leave_nothing_to_prune() -> None:
    with pytest.raises(ConfigError, match="No axis of this model is of the kinds groups that are to be pruned"):
        gated_in(PruneConfig(gates={"groups": HardConcrete()}), tiny_structure("data2vec-audio", "base"))


def test_tensorboard_reaches_the_loop_and_is_missed_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = Training(tensorboard=True)
    assert _loop(recover, 0).tensorboard
    assert not _loop(Training(), 0).tensorboard
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = PruneConfig(model="no/such-model", recover=recover)
    with pytest.raises(ConfigError, match="needs the package `tensorboard`"):
        prepare(config, table=lambda config: pytest.fail("asked for times"))
