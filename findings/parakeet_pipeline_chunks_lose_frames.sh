#!/usr/bin/env bash
# Parakeet CTC in `pipeline(chunk_length_s=…)` loses two thirds of its frames, without an error.
#
# transformers 5.23.0, torch 2.13.0. The pipeline learns how many samples a frame stands for from the config's
# `inputs_to_logits_ratio`, which ParakeetCTCConfig has not, and takes 1 instead. Overlaps counted in samples are then cut
# off outputs counted in frames, so that all chunks but the first come to nothing. With the field set by hand they do not.
# Seen, 30 s of noise in chunks of 10 s: 126 frames; with inputs_to_logits_ratio = 1280: 375.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
config = transformers.ParakeetCTCConfig(
    encoder_config=transformers.ParakeetEncoderConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, subsampling_conv_channels=8,
        num_mel_bins=16, conv_kernel_size=5,
    ),
    vocab_size=9,
    pad_token_id=2,
)
model = transformers.ParakeetForCTC(config).eval()
vocabulary = Path(tempfile.mkdtemp(), "vocab.json")
vocabulary.write_text(json.dumps({token: n for n, token in enumerate(["<unk>", "|", "<pad>", *"abcdef"])}))
recognizer = transformers.pipeline(
    "automatic-speech-recognition",
    model=model,
    tokenizer=transformers.Wav2Vec2CTCTokenizer(str(vocabulary), bos_token=None, eos_token=None),
    feature_extractor=transformers.ParakeetFeatureExtractor(feature_size=16),
)
audio = np.random.default_rng(0).standard_normal(30 * 16000).astype("float32")


def kept_frames() -> int:
    total = 0
    for chunk in recognizer.preprocess(audio, chunk_length_s=10):
        result = recognizer._forward(dict(chunk))
        length, left, right = result["stride"]
        total += result["tokens"][0, left : length - right].numel()
    return total


stock = kept_frames()
model.config.inputs_to_logits_ratio = 1280
mended = kept_frames()
print("frames of 30 s:", stock, "and with inputs_to_logits_ratio = 1280:", mended)
assert mended == 30 * 16000 // 1280
assert stock < 0.5 * mended
PY
