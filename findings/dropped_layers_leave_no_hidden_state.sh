#!/usr/bin/env bash
# In train mode with layer-drop, a wav2vec 2.0 model returns fewer hidden states than it has layers.
#
# transformers 5.23.0, torch 2.13.0. A model of six layers returns seven hidden states in eval mode. In train mode with
# layerdrop 0.3, a dropped layer leaves no state behind, so that hidden_states[k] is of another layer from call to call,
# and whatever pairs layers of two models by index pairs the wrong ones.
# Seen: seven states in eval mode; from 3 to 7 in forty calls in train mode.
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
config = transformers.Wav2Vec2Config(
    hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, layerdrop=0.3, mask_time_prob=0.0,
)
model, audio = transformers.Wav2Vec2Model(config), torch.randn(1, 8000)
evaluated = len(model.eval()(audio, output_hidden_states=True).hidden_states)
model.train()
trained = [len(model(audio, output_hidden_states=True).hidden_states) for _ in range(40)]
print("hidden states in eval mode:", evaluated, "and in train mode:", sorted(set(trained)))
assert evaluated == 7
assert min(trained) < 7
assert max(trained) <= 7
PY
