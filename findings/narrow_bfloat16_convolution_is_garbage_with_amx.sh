#!/usr/bin/env bash
# On processors with AMX, a bfloat16 convolution over time of few channels per group returns garbage.
#
# torch 2.13.0 (CPU), as the positional convolution of a small wav2vec 2.0 encoder: 192 channels in 16 groups, 64 taps.
# Every combination of an even number of channels per group from 2 to 14 with channels times taps a multiple of 32 from
# 64 on is wrong, also with a single group; neighbors are right. Gradients are right. With ONEDNN_MAX_CPU_ISA set to
# AVX512_CORE_BF16 the same call is right.
# Seen, relative error of 12 channels x 64 taps: above 1 with AMX, 0.002 without; 12 x 63, 13 x 64, 16 x 64: 0.002.
# A processor without AMX has nothing to show: the script says so and ends well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/convolution.py" <<'PY'
import sys

import torch

torch.manual_seed(0)


def error(width: int, groups: int, taps: int) -> float:
    values = torch.randn(1, width * groups, 50).bfloat16()
    weight = torch.randn(width * groups, width, taps).bfloat16()
    exact = torch.conv1d(values.float(), weight.float(), padding=taps // 2, groups=groups)
    found = torch.conv1d(values, weight, padding=taps // 2, groups=groups).float()
    return float((found - exact).norm() / exact.norm())


print("torch", torch.__version__)
wrong = {shape: round(error(*shape), 3) for shape in ((12, 16, 64), (8, 1, 8), (2, 4, 32))}
right = {shape: round(error(*shape), 3) for shape in ((12, 16, 63), (13, 16, 64), (16, 16, 64))}
print("(channels per group, groups, taps): relative error", wrong, right)
assert max(right.values()) < 0.01
assert min(wrong.values()) > 0.5 if sys.argv[1] == "amx" else max(wrong.values()) < 0.01
PY
if ! grep -qw amx_bf16 /proc/cpuinfo; then
  echo "This processor has no AMX: nothing to show."
  exit 0
fi
ONEDNN_MAX_CPU_ISA=AVX512_CORE_AMX "$folder/venv/bin/python" "$folder/convolution.py" amx
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$folder/venv/bin/python" "$folder/convolution.py" bf16
