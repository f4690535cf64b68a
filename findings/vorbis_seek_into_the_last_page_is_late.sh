#!/usr/bin/env bash
# A seek into the last page of an Ogg Vorbis file gives samples from later on, to the end of the read.
#
# soundfile 0.14.0 (libsndfile 1.2.2). Five seconds of noise at 16 kHz. After `seek(len - 3000)`, 3000 samples are read
# as promised; their first 2872 are those from 128 samples further on. A seek before the last page is exact.
# Seen: shift 128 for a seek 1000 or 3000 samples before the end, 0 for 10000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import soundfile

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
noise = 0.2 * np.random.default_rng(0).standard_normal(5 * 16000).astype("float32")
soundfile.write("noise.ogg", noise, 16000, format="OGG", subtype="VORBIS")
whole, _ = soundfile.read("noise.ogg", dtype="float32")


def shift_after_seek(back: int) -> int:
    with soundfile.SoundFile("noise.ogg") as file:
        file.seek(len(whole) - back)
        part = file.read(dtype="float32")
    assert len(part) == back
    start = len(whole) - back
    return next(shift for shift in range(back) if np.allclose(whole[start + shift :][:500], part[:500], atol=1e-6))


shifts = {back: shift_after_seek(back) for back in (1000, 3000, 10000)}
print("samples before the end: shift of what is read", shifts)
assert shifts == {1000: 128, 3000: 128, 10000: 0}
PY
