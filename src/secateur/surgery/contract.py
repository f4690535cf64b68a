"""Drop-in contract: checks of a cut model beside the equality to the masked model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.hf.frame_counts import frames_of
from secateur.records.verification import VerificationCheck
from secateur.structure import Structure
from secateur.surgery.comparison import random_audio, relative_difference, run_model

#: Largest allowed difference relative to the root mean square of the activations.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
#: Relative error of a model in bfloat16 that needs no comparison with the dense model's.
_BFLOAT16_TOLERANCE = 0.05
#: How many times the dense model's error in bfloat16 a smaller model's may be: fewer units average out less rounding.
_BFLOAT16_ERROR_RATIO = 3.0


@dataclass(frozen=True, kw_only=True)
class ModelPair:
    """Cut and dense model, compared on random audio of a seeded generator.

    Attributes:
        cut: The cut model, in eval mode.
        dense: The model that it was cut from, in eval mode.
        layers: Number of layers of the cut model.
        structure: Of the dense model.
        shortest: The fewest samples that both take.
        generator: Of the audio.
    """

    cut: PreTrainedModel
    dense: PreTrainedModel
    layers: int
    structure: Structure
    shortest: int
    generator: torch.Generator

    @property
    def dtype(self) -> torch.dtype:
        """Of the cut model's parameters."""
        return next(self.cut.parameters()).dtype

    def audio(self, samples: int, *, batch: int = 1) -> Tensor:
        """Return random audio of at least that many samples, and at least as many as the models need."""
        return random_audio(self.structure, max(samples, self.shortest), self.dtype, self.generator, batch=batch)


def contract_checks(subject: ModelPair, *, compile: bool = False) -> list[VerificationCheck]:
    """Return the lines of the contract.

    Args:
        subject: The models.
        compile: Also run `torch.compile` (a minute or more on a CPU).
    """
    checks = [
        _frame_counts(subject),
        _hidden_states(subject),
        _padding(subject),
        _short_audio(subject),
        _attention_implementations(subject),
        _bfloat16(subject),
    ]
    return [*checks, _torch_compile(subject)] if compile else checks


def _frame_counts(subject: ModelPair) -> VerificationCheck:
    structure, min_samples = subject.structure, subject.structure.min_samples
    # 37 has no common divisor with the usual hop of 320 samples, so lengths end at many places within a frame; 480000
    # samples are 30 s at 16 kHz.
    samples = [*range(min_samples, min_samples + 700, 37), 16000, 79999, 480000]
    lengths = torch.tensor([structure.input_length(length) for length in samples])
    is_same = torch.equal(frames_of(subject.cut, lengths), frames_of(subject.dense, lengths))
    detail = f"{len(samples)} lengths from {min_samples} to {samples[-1]} samples"
    return VerificationCheck(name="same frame count for every length", holds=is_same, detail=detail)


def _hidden_states(subject: ModelPair) -> VerificationCheck:
    audio = subject.audio(8000)  # half a second at 16 kHz
    cut, dense = (run_model(model, audio) for model in (subject.cut, subject.dense))
    expected = subject.layers + 1  # hidden state 0 is the input of the first layer
    holds = len(cut.hidden_states) == expected and cut[0].shape == dense[0].shape
    holds &= all(state.shape == dense.hidden_states[0].shape for state in cut.hidden_states)
    trimmed = len(dense.hidden_states) - expected
    note = f", {trimmed} trailing layers trimmed" if trimmed else ""
    detail = f"{len(cut.hidden_states)} hidden states of width {cut.hidden_states[0].shape[-1]}{note}; output "
    shape = "x".join(map(str, cut[0].shape))
    return VerificationCheck(name="same hidden states, widths and head", holds=holds, detail=detail + shape)


def _padding(subject: ModelPair) -> VerificationCheck:
    audio, structure = subject.audio(9000), subject.structure
    # In positions of the model's input: samples, or vectors of features.
    padding_length = structure.input_length(14000 + subject.shortest) - structure.input_length(9000)
    # (1, length) -> (1, length + padding), or (1, length, width) -> (1, length + padding, width)
    padded = torch.cat([audio, audio.new_zeros(1, padding_length, *audio.shape[2:])], dim=1)
    # (1, length + padding): ones over the audio, zeros over the padding
    attention = torch.nn.functional.pad(torch.ones(audio.shape[:2], dtype=torch.long), (0, padding_length))
    differences = []
    for model in (subject.cut, subject.dense):
        unpadded_states, padded_states = (
            run_model(model, audio).hidden_states[-1],
            run_model(model, padded, attention).hidden_states[-1],
        )
        # Frames behind the audio exist with padding only.
        differences.append(relative_difference(unpadded_states, padded_states[:, : unpadded_states.shape[1]]))
    detail = f"padding moves valid frames by {differences[0]:.1e}; in the dense model by {differences[1]:.1e}"
    if structure.sees_padding:
        detail += " (this architecture sees padding, in stock code too)"
    holds = differences[0] <= 1e-3 or structure.sees_padding
    return VerificationCheck(name="padded equals unpadded as far as the dense model's", holds=holds, detail=detail)


def _short_audio(subject: ModelPair) -> VerificationCheck:
    structure, min_length = subject.structure, subject.structure.input_length(subject.structure.min_samples)
    unit = "vectors of features" if structure.features else "samples"
    # Not `subject.audio`, which returns at least as many samples as a task head needs.
    audio = random_audio(structure, structure.min_samples, subject.dtype, subject.generator)
    (shortest_outcome, shorter_outcome), dense_outcomes = (
        (_describe_frames(model, audio), _describe_frames(model, audio[:, :-1]))
        for model in (subject.cut, subject.dense)
    )
    detail = f"{min_length} {unit}: {shortest_outcome}, one less: {shorter_outcome}; "
    detail += (
        "so does the dense model"
        if dense_outcomes == (shortest_outcome, shorter_outcome)
        else f"the dense model: {dense_outcomes[0]}, {dense_outcomes[1]}"
    )
    return VerificationCheck(
        name="short audio behaves as in the dense model",
        holds=(shortest_outcome, shorter_outcome) == dense_outcomes,
        detail=detail,
    )


def _describe_frames(model: PreTrainedModel, audio: Tensor) -> str:
    """Describe in words the number of frames that a model returns, or the failure to run."""
    try:
        frames = run_model(model, audio).hidden_states[-1].shape[1]
    except (RuntimeError, ValueError):
        return "raises"
    return f"{frames} frame{'' if frames == 1 else 's'}"


def _attention_implementations(subject: ModelPair) -> VerificationCheck:
    cut, dense, audio = subject.cut, subject.dense, subject.audio(8000, batch=2)
    names = ["eager"] + (["sdpa"] if cut._supports_sdpa else [])
    tolerance, difference = TOLERANCE.get(audio.dtype, 1e-4), _implementation_difference(cut, audio, names)
    detail, holds = _describe_agreement(difference, names), difference <= tolerance
    if not holds and dense._supports_sdpa:  # rounding that the model multiplies, or a fault of the library
        reference = _implementation_difference(dense, audio, names)
        # The dense model has to disagree as well (`not <=` is true for NaN, too), and results may be infinite or
        # NaN only where the dense model's are.
        holds = not reference <= tolerance and math.isfinite(difference) >= math.isfinite(reference)
        detail += f"; in the dense model {_describe_agreement(reference, names)}"
    return VerificationCheck(name="every attention implementation", holds=holds, detail=detail)


def _describe_agreement(difference: float, names: Sequence[str]) -> str:
    if math.isfinite(difference):
        return f"{', '.join(names)} agree to {difference:.1e}"
    return f"not all of {', '.join(names)} give finite numbers"


def _implementation_difference(model: PreTrainedModel, audio: Tensor, names: Sequence[str]) -> float:
    """Return the largest relative difference between outputs of some implementations of attention."""
    original_implementation, outputs = model.config._attn_implementation, []
    try:
        for name in names:
            model.set_attn_implementation(name)
            outputs.append(run_model(model, audio).hidden_states[-1])
    finally:
        model.set_attn_implementation(original_implementation)
    return max(relative_difference(outputs[0], output) for output in outputs)


def _bfloat16(subject: ModelPair) -> VerificationCheck:
    audio = subject.audio(8000).to(torch.float32)
    error, dense_error = (_bfloat16_error(model, audio) for model in (subject.cut, subject.dense))
    holds = (
        error <= max(_BFLOAT16_TOLERANCE, _BFLOAT16_ERROR_RATIO * dense_error)
        if math.isfinite(dense_error)
        else math.isfinite(error)
    )
    detail = f"{_format_error(error)}; the dense model {_format_error(dense_error)}"
    return VerificationCheck(name="bfloat16", holds=holds or error == dense_error, detail=detail)


def _format_error(error: float) -> str:
    if math.isfinite(error):
        return f"runs with a relative error of {error:.1e}"
    return "does not run, or gives no finite numbers"


def _bfloat16_error(model: PreTrainedModel, audio: Tensor) -> float:
    """Return the root mean square error of a model in bfloat16, relative to the last hidden state.

    It is infinite where the model does not run, as stock conformers with rotary positions do not, or where its numbers
    are not finite.
    """
    reference = run_model(model, audio.to(next(model.parameters()).dtype)).hidden_states[-1].double()
    with _in_bfloat16(model):
        try:
            rounded = run_model(model, audio.bfloat16()).hidden_states[-1].double()
        except RuntimeError:
            return math.inf
    error = float((reference - rounded).square().mean().sqrt() / reference.square().mean().sqrt())
    return error if math.isfinite(error) else math.inf


@contextmanager
def _in_bfloat16(model: PreTrainedModel) -> Iterator[None]:
    """Convert a model to bfloat16, and restore the weights and buffers afterwards."""
    module: nn.Module = model
    dtype = next(module.parameters()).dtype
    state = {name: value.clone() for name, value in module.state_dict().items()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    try:
        module.to(torch.bfloat16)
        yield
    finally:
        module.to(dtype).load_state_dict(state)
        for name, buffer in module.named_buffers():  # those that are not saved, too
            buffer.copy_(buffers[name])


def _torch_compile(subject: ModelPair) -> VerificationCheck:
    audio = subject.audio(8000)
    difference = relative_difference(subject.cut(audio)[0], torch.compile(subject.cut)(audio)[0])
    return VerificationCheck(name="torch.compile", holds=difference < 1e-4, detail=f"agrees to {difference:.1e}")
