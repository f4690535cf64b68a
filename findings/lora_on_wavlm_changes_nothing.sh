#!/usr/bin/env bash
# LoRA on the query and value projections of stock WavLM trains, and changes no output.
#
# transformers 5.23.0, peft 0.18.0, torch 2.13.0. WavLM's attention hands the weights of its projections to a function
# and never calls the projections, so the adapters that peft puts around them are never run: with adapter weights far
# from zero the output is the base model's, bit for bit, and adapter weights get no gradient. The same on HuBERT works.
# Seen: largest change of the output 0.0 (WavLM), above 0.01 (HuBERT); gradient None (WavLM).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.18.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import peft
import torch
import transformers

print("transformers", transformers.__version__, "peft", peft.__version__, "torch", torch.__version__)


def change_by_lora(name: str) -> tuple[float, bool]:
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )
    torch.manual_seed(0)
    model, audio = getattr(transformers, f"{name}Model")(config).eval(), torch.randn(1, 8000)
    before = model(audio)[0].detach()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    adapters = [value for key, value in adapted.named_parameters() if "lora_" in key]
    with torch.no_grad():
        for value in adapters:
            value.normal_()
    after = adapted(audio)[0]
    if after.requires_grad:
        after.square().sum().backward()
    return float((after - before).abs().max()), any(value.grad is not None for value in adapters)


wavlm, hubert = change_by_lora("WavLM"), change_by_lora("Hubert")
print("change of the output and gradients of the adapters: WavLM", wavlm, "HuBERT", hubert)
assert wavlm == (0.0, False)
assert hubert[0] > 0.01 and hubert[1]
PY
