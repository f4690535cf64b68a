#!/usr/bin/env bash
# HuBERT's time masks (SpecAugment) fall on padding too; those of every other model of the wav2vec 2.0 family do not.
#
# transformers 5.23.0, torch 2.13.0. A batch of two rows, one of 4 s and one of 1 s padded to 4 s, with its attention
# mask, in train mode with mask_time_prob 0.2. HubertModel draws its masks without the attention mask, so the 3 s of
# padding get as many masked frames as speech does; Wav2Vec2Model and WavLMModel keep them out of the padding.
# Seen: masked share of the padding 0.20 (HuBERT), 0.00 (wav2vec 2.0), 0.00 (WavLM).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)


def masked_share_of_padding(name: str) -> float:
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, mask_time_prob=0.2, mask_time_min_masks=0,
        layerdrop=0.0,
    )
    torch.manual_seed(0)
    np.random.seed(0)
    model = getattr(transformers, f"{name}Model")(config).train()
    draw, masks = model._mask_hidden_states, []

    def record(states, *args, **kwargs):
        before = states.clone()
        after = draw(states, *args, **kwargs)
        masks.append((after != before).any(-1).float())  # (2, frames)
        return after

    model._mask_hidden_states = record
    attention = torch.ones(2, 64000, dtype=torch.long)
    attention[1, 16000:] = 0
    for _ in range(40):
        model(torch.randn(2, 64000) * attention, attention_mask=attention)
    return float(torch.stack(masks)[:, 1, 49:].mean())


shares = {name: masked_share_of_padding(name) for name in ("Hubert", "Wav2Vec2", "WavLM")}
print("masked share of the padding:", {name: round(share, 3) for name, share in shares.items()})
assert shares["Hubert"] > 0.1
assert shares["Wav2Vec2"] == shares["WavLM"] == 0.0
PY
