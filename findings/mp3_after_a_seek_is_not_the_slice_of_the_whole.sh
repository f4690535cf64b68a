#!/usr/bin/env bash
# After a seek in an MP3, up to 19 ms are not what the whole file has there, in files of the lowest bit rates.
#
# soundfile 0.14.0 (libsndfile 1.2.2, with mpg123). Five seconds of noise at 48 kHz, mono, written and read by the same
# library. A frame may borrow bits from frames in front of it; after a seek the decoder starts with too few of those.
# No error is raised; mpg123 writes lines to stderr.
# Seen: 67 of 107 segments differ from the slice of the whole read, by up to 878 samples (18 ms) at their start, and by
# as much as 0.6 where the signal has a standard deviation of 0.16. At 64 kbit/s and 44.1 kHz: none of 98.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import soundfile

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)


def wrong_segments(rate: int, level: float) -> tuple[int, int, int, float]:
    noise = 0.2 * np.random.default_rng(0).standard_normal(5 * rate).astype("float32")
    settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
    soundfile.write("noise.mp3", noise, rate, **settings)
    whole, _ = soundfile.read("noise.mp3", dtype="float32")
    starts, wrong, longest, worst = range(3000, 4 * rate, 1777), 0, 0, 0.0
    for start in starts:
        with soundfile.SoundFile("noise.mp3") as file:
            file.seek(start)
            part = file.read(3000, dtype="float32")
        difference = np.abs(part - whole[start : start + 3000])
        places = np.flatnonzero(difference > 1e-3)
        wrong += bool(len(places))
        longest = max(longest, int(places[-1]) + 1 if len(places) else 0)
        worst = max(worst, float(difference.max()))
    return wrong, len(starts), longest, worst


low, high = wrong_segments(48000, 0.9), wrong_segments(44100, 0.5)
print("wrong segments, of, samples, difference:", low, "and at the higher bit rate:", high)
assert low[0] > 20
assert 300 < low[2] < 1500
assert high[0] == 0
PY
