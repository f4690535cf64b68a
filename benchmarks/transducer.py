"""The transducer loss: time from whole logits, and time and peak memory of its two forms behind a joint network.

    python benchmarks/transducer.py

`losses` takes the whole tensor of logits, `fused_losses` makes them piece by piece. Every case is a process of its own;
processor time beside the clock tells when other work had the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from secateur.benchmarking.process_settings import MALLOC_SETTINGS

#: Rows, frames, tokens, outputs; at 80 ms a frame utterances of 16 s, and of 40 s with a larger vocabulary.
SHORT, LONG = (8, 200, 50, 500), (2, 500, 100, 1025)
WIDTH = 640  # of what the joint network takes, as in Parakeet
#: Two minutes of speech as characters, which the task `rnnt` makes of the encoder's frames, predictor and all.
MINUTES = (1, 1500, 1800, 32)
CASES = {"logits alone": SHORT, "whole": LONG, "fused": LONG, "the task": MINUTES}


def work(case: str) -> Callable[[], None]:
    """Forward and backward pass of a case."""
    import torch

    from secateur.tasks.rnnt_loss import fused_losses, losses

    rows, frames, tokens, outputs = CASES[case]
    if case == "the task":
        return task(rows, frames, tokens, outputs)
    scripts = torch.randint(1, outputs, (rows, tokens)).tolist()
    valid = torch.full((rows,), frames)
    if case == "logits alone":
        logits_in = torch.randn(rows, frames, tokens + 1, outputs, requires_grad=True)

        def alone() -> None:
            logits_in.grad = None
            losses(logits_in, valid, scripts, blank=0).sum().backward()

        return alone
    encoder, predictor = (torch.randn(rows, count, WIDTH, requires_grad=True) for count in (frames, tokens + 1))
    head = torch.nn.Linear(WIDTH, outputs)

    def joint(*, encoder_hidden_states: torch.Tensor, decoder_hidden_states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head((encoder_hidden_states + decoder_hidden_states).relu())
        return logits

    def whole() -> None:
        logits = joint(encoder_hidden_states=encoder[:, :, None], decoder_hidden_states=predictor[:, None])
        losses(logits, valid, scripts, blank=0).sum().backward()

    def fused() -> None:
        fused_losses(joint, encoder, predictor, valid, scripts, blank=0).sum().backward()

    return whole if case == "whole" else fused


def task(rows: int, frames: int, tokens: int, outputs: int) -> Callable[[], None]:
    """The loss of the task on random frames of an encoder, with gradients to them, the predictor and the joiner."""
    import torch
    from transformers import ParakeetEncoderConfig, ParakeetForRNNT, ParakeetRNNTConfig

    from secateur.data.corpus import Utterance
    from secateur.tasks import vocabulary
    from secateur.tasks.rnnt import RnntTask
    from secateur.tasks.vocabulary import Vocabulary

    signs = [chr(ord("a") + number) for number in range(outputs - 3)]  # beside blank, unknown and delimiter
    words = Vocabulary(vocabulary.make_tokenizer(signs))
    learned = RnntTask(words, unknown="skip", outputs=outputs, new_head=True, symbols=10, width=WIDTH, layers=1)
    encoder = ParakeetEncoderConfig(hidden_size=256, num_hidden_layers=1, intermediate_size=16)
    model = ParakeetForRNNT(ParakeetRNNTConfig(**learned.fields(), encoder_config=encoder))
    hidden_states = torch.randn(rows, frames, 256, requires_grad=True)
    texts = ["".join(signs[i] for i in torch.randint(len(signs), (tokens,)).tolist()) for _ in range(rows)]
    utterances = [Utterance(id=str(row), path="", samples=1, text=text) for row, text in enumerate(texts)]

    def step() -> None:
        learned.sums(hidden_states, torch.full((rows,), frames), utterances, model=model).backward()

    return step


def measure(case: str, repeats: int) -> dict[str, float]:
    """What a child process does: the fastest repeat, its processor time, and the memory that the first one added."""
    import torch

    from secateur.benchmarking.process_settings import tune_products

    torch.set_num_threads(2)
    torch.manual_seed(0)
    tune_products()
    run = work(case)
    baseline_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, peaks = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - start, time.process_time() - busy))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline_memory)
    clock, busy = min(times)
    return {"seconds": clock, "processor": busy, "peak_mib": peaks[0] / 1024}  # later ones measure gaps left by malloc


def child(case: str, repeats: int) -> dict[str, Any]:
    """A process of its own, under the settings of `secateur prune`."""
    environment = os.environ | MALLOC_SETTINGS | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", __file__, "--case", case, "--repeats", str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.repeats)))
        return
    titles = ("case", "B, T, U, V", "logits, MiB", "seconds", "processor seconds", "peak memory, MiB")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for case, shape in CASES.items():
        rows, frames, tokens, outputs = shape
        size = rows * frames * (tokens + 1) * outputs * 4 / 2**20
        row = child(case, options.repeats)
        print(
            f"| {case} | {', '.join(map(str, shape))} | {size:.0f} | {row['seconds']:.2f} | {row['processor']:.2f} | "
            f"{row['peak_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
