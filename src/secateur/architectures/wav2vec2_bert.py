"""w2v-BERT 2.0: log-mel features in, causal convolution modules, relative keys by default."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, once_per_frame
from secateur.architectures.conformer_table import layers
from secateur.structure import ConvStage, FeatureSpec


def declare(table: AxisTable) -> None:
    """The projection of its features, two log-mel vectors of 10 ms each, and Conformer layers."""
    width = table.config.feature_projection_input_dim
    table.features = FeatureSpec(
        extractor="SeamlessM4TFeatureExtractor",
        width=width,
        stages=2,
        settings={"feature_size": width // 2, "num_mel_bins": width // 2, "stride": 2},
    )
    table.stages = (ConvStage(kernel=400, stride=160), ConvStage(kernel=2, stride=2))
    table.front_end = "feature_projection"
    table.count_matrix("feature_projection.projection", once_per_frame(table))
    layers(table, norm_name="depthwise_layer_norm")
