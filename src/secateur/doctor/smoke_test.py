"""Smoke test of `doctor`: a tiny model of each family is built, cut and verified."""

from __future__ import annotations

import time
import warnings

from secateur.records.finding import Finding


def smoke_test() -> Finding:
    """Build, cut and verify a tiny model of every family."""
    import secateur.surgery.verify  # noqa: F401  loads torch and transformers, so that the time below is the test's
    from secateur.architectures.registry import FAMILIES

    start_time, failures = time.perf_counter(), []
    with warnings.catch_warnings():
        # Stock WavLM's own attention, with a padding mask of another type than its bias.
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        for family in FAMILIES:
            failures += [f"{family}: {line}" for line in _check_family(family)]
    duration = time.perf_counter() - start_time
    if failures:
        return Finding(
            name="smoke test",
            status="problem",
            detail="; ".join(failures),
            remedy="Install the versions named above; if they are, report this with the output of doctor --json.",
        )
    detail = f"{len(FAMILIES)} families ({', '.join(FAMILIES)}) built, cut and verified in {duration:.1f} s"
    return Finding(name="smoke test", status="ok", detail=detail)


def _check_family(family: str) -> list[str]:
    """Return the failed checks of the verification of a tiny model of a family."""
    import torch

    from secateur.hf.configs import stock_config
    from secateur.hf.model_view import ConfigView
    from secateur.hf.models import build_model
    from secateur.structure import Selection
    from secateur.surgery import cut
    from secateur.surgery.verify import verify

    fields = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": [8] * 7,  # as many convolutions as wav2vec 2.0 has
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "subsampling_conv_channels": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = stock_config(family, fields)
        axes = {
            # Every unit, every second unit, every third unit, axis by axis; layers stay.
            axis.name: axis.units[:: 1 + number % 3] if axis.kind != "layer" else axis.units
            for number, axis in enumerate(ConfigView(config).structure.axes.values())
        }
        # A whole block is removed, too.
        axes[max(name for name in axes if name.endswith("/block"))] = ()
        selection = Selection(axes=axes)
        dense = build_model(config).eval()
        verification = verify(cut(dense, selection), dense, selection)
    return [f"{check.name} ({check.detail})" for check in verification.checks if not check.holds]
