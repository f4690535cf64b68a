#!/usr/bin/env bash
# A wav2vec2-conformer with rotary positions that ran in float32 fails in bfloat16, for audio of the same length alone.
#
# transformers 5.23.0, torch 2.13.0. The rotary table is kept from call to call by its length, in the dtype of the call
# that made it. After one float32 pass and `model.to(torch.bfloat16)`, audio of the same length meets the float32 table
# and raises; audio of another length makes a new table and runs.
# Seen: fresh in bfloat16: runs; after float32: raises RuntimeError at the same length, runs at another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
config = transformers.Wav2Vec2ConformerConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
    position_embeddings_type="rotary", conv_depthwise_kernel_size=5,
)


def outcome(model, samples: int) -> str:
    try:
        model(torch.randn(1, samples, dtype=torch.bfloat16))
    except RuntimeError as error:
        return f"raises: {error}"
    return "runs"


torch.manual_seed(0)
fresh = outcome(transformers.Wav2Vec2ConformerModel(config).eval().to(torch.bfloat16), 8000)
used = transformers.Wav2Vec2ConformerModel(config).eval()
used(torch.randn(1, 8000))
used.to(torch.bfloat16)
same, other = outcome(used, 8000), outcome(used, 16000)
print("fresh:", fresh, "| after float32, same length:", same, "| another length:", other)
assert fresh == "runs"
assert same.startswith("raises")
assert other == "runs"
PY
