#!/usr/bin/env bash
# An x-vector head on WavLM takes audio of 15 frames and gives NaN for it, without an error.
#
# transformers 5.23.0, torch 2.13.0. The windows of the default TDNN span 15 frames, and the pooling takes a standard
# deviation over what they give: of one position that is NaN. One frame less raises, one more is right. A check that
# runs the shortest audio that does not raise gets an embedding that compares unequal with everything.
# Seen: 14 frames: raises; 15: not finite; 16: finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
config = transformers.WavLMConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, tdnn_dim=[8] * 5, xvector_output_dim=4,
)
model, outcomes = transformers.WavLMForXVector(config).eval(), {}
for frames in (14, 15, 16):
    try:
        embedding = model(torch.randn(1, 400 + 320 * (frames - 1))).embeddings
        outcomes[frames] = "finite" if bool(torch.isfinite(embedding).all()) else "not finite"
    except RuntimeError:
        outcomes[frames] = "raises"
print(outcomes)
assert outcomes == {14: "raises", 15: "not finite", 16: "finite"}
PY
