"""w2v-BERT 2.0: log-mel features in, causal convolution modules, relative keys by default."""

from __future__ import annotations

from secateur.architectures.blocks import Table, frames
from secateur.architectures.conformer_table import layers
from secateur.structure import Features, Stage


def declare(table: Table) -> None:
    """The projection of its features, two log-mel vectors of 10 ms each, and Conformer layers."""
    width = table.config.feature_projection_input_dim
    table.features = Features(
        extractor="SeamlessM4TFeatureExtractor",
        width=width,
        stages=2,
        settings={"feature_size": width // 2, "num_mel_bins": width // 2, "stride": 2},
    )
    table.stages = (Stage(kernel=400, stride=160), Stage(kernel=2, stride=2))
    table.front_end = "feature_projection"
    table.use("feature_projection.projection", frames(table))
    layers(table, norm="depthwise_layer_norm")
