"""The proof that a cut model is the masked model, and that it keeps the drop-in contract."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.cost import Cost, Terms
from secateur.masking import attach, values_of
from secateur.masking.parts import Parts
from secateur.modules.families import encoder_config
from secateur.modules.lengths import frames_of
from secateur.structure import Selection, Structure, close
from secateur.structure.structure import TRANSDUCER
from secateur.surgery.cut import cut as cut_anew

#: Largest allowed difference relative to the root mean square of the activations.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
_ROUNDING = 1e-6  # of a parameter in float32


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the contract: what it says, whether it holds, and the figures behind it."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of `verify`.

    Attributes:
        checks: The contract, line by line.
        differences: Largest relative difference of each hidden state (index 0 is the encoder's input), and last the
            final output; empty when there was no masked model to compare with.
    """

    checks: tuple[Check, ...]
    differences: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether every line holds."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"holds": self.holds} | asdict(self)


def verify(
    cut: PreTrainedModel,
    dense: PreTrainedModel,
    selection: Selection | None,
    *,
    seed: int = 0,
    compile: bool = False,
) -> Verification:
    """Compare a cut model with the model it was cut from.

    Args:
        cut: The cut model.
        dense: The model it came from; its masked self is compared when a selection is given.
        selection: The selection of the cut; None checks the contract only (a model that was trained after the cut).
        seed: Seed of the random audio.
        compile: Also run `torch.compile` (a minute or more on a CPU).
    """
    structure = declare(dense.config)
    generator = torch.Generator().manual_seed(seed)
    checks: list[Check] = []
    differences: tuple[float, ...] = ()
    with _inference(cut), _inference(dense):
        if selection is not None:
            closed = close(structure, selection).selection
            checks.append(_parameters(cut, structure, closed))
            differences = compare(cut, dense, structure, closed, generator)
            checks.append(_equal(cut, dense, structure, closed, differences))
        checks += [
            _frames(cut, dense, structure),
            _states(cut, dense, structure, generator),
            _padding(cut, dense, structure, generator),
            _short(cut, dense, structure, generator),
            _implementations(cut, dense, structure, generator),
            _bfloat16(cut, structure, generator),
        ]
        if compile:
            checks.append(_compiled(cut, structure, generator))
    return Verification(checks=tuple(checks), differences=differences)


def compare(
    cut: PreTrainedModel,
    dense: PreTrainedModel,
    structure: Structure,
    closed: Selection,
    generator: torch.Generator,
) -> tuple[float, ...]:
    """Largest difference between masked and cut over random audio of many lengths, padded and not.

    Returns:
        One figure per hidden state of the cut model and one for the output, each relative to the root mean square of
        the masked model's activations.
    """
    dtype = next(cut.parameters()).dtype
    masking = attach(dense, structure)
    masking.set(values_of(structure, closed, dtype).to(next(dense.parameters()).device))
    worst: list[float] = []
    try:
        for audio, attention in _audio(structure, dtype, generator):
            masked, ours = (_run(model, audio, attention) for model in (dense, cut))
            # Trimmed layers have no hidden state in the cut model; the masked one repeats the last.
            pairs = [*zip(masked.hidden_states, ours.hidden_states, strict=False), (_output(masked), _output(ours))]
            found = [_relative(a, b) for a, b in pairs]
            worst = [max(pair) for pair in zip(worst, found, strict=True)] if worst else found
    finally:
        masking.remove()
    return tuple(worst)


def _audio(
    structure: Structure, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    least = structure.shortest
    for samples in (least, least + 1, 3 * least + 7, 8000, 16123):
        yield _noise(structure, samples, dtype, generator), None
    for samples_of in ((12000, 7001), (9000, least, 4567)):
        audio = _noise(structure, max(samples_of), dtype, generator, batch=len(samples_of))
        lengths = torch.tensor([structure.heard(samples) for samples in samples_of])
        attention = (torch.arange(audio.shape[1]) < lengths[:, None]).long()
        yield audio * attention.view(*attention.shape, *[1] * (audio.dim() - 2)), attention


def _noise(
    structure: Structure, samples: int, dtype: torch.dtype, generator: torch.Generator, *, batch: int = 1
) -> Tensor:
    """Random audio as the model hears it, as if it were of so many samples: (B, S) or (B, positions, width)."""
    return torch.randn(structure.input_shape(batch, samples), generator=generator, dtype=dtype)


def _run(model: PreTrainedModel, audio: Tensor, attention: Tensor | None = None) -> Any:
    device = next(model.parameters()).device
    mask = None if attention is None else attention.to(device)
    # A transducer's logits are of frames and tokens: of its blank, and of the first token behind that.
    blank = getattr(model.config, "blank_token_id", None)
    told = {} if blank is None else {"decoder_input_ids": torch.tensor([[blank, 0]] * len(audio), device=device)}
    return model(audio.to(device), attention_mask=mask, output_hidden_states=True, **told)


def _output(result: Any) -> Tensor:
    """Logits of a head, or the last hidden state."""
    output: Tensor = result.logits if "logits" in result else result[0]
    return output


def _relative(reference: Tensor, other: Tensor) -> float:
    """Largest difference relative to the root mean square of the reference."""
    if reference.shape != other.shape or not bool(torch.isfinite(other).all()):
        return float("inf")
    scale = reference.double().square().mean().sqrt().clamp(min=1e-30)
    return float((reference.double() - other.double()).abs().max() / scale)


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _parameters(cut: PreTrainedModel, structure: Structure, closed: Selection) -> Check:
    terms, holds, details = Terms(structure), True, []
    own = Parts(cut, declare(cut.config)).parameters()
    for scope in ("whole", TRANSDUCER) if structure.head else ("whole",):
        expected = Cost.of(terms, cost="parameters", scope=scope).count(closed)
        counted = sum(value.numel() for name, value in own.items() if structure.in_scope(name, scope))
        of = " in the head" if scope == TRANSDUCER else ""
        details.append(f"{counted:,} counted{of}, {expected:,} by the selection")
        holds &= counted == expected
    return Check(name="parameters are those of the selection", holds=holds, detail="; ".join(details))


def _equal(
    cut: PreTrainedModel,
    dense: PreTrainedModel,
    structure: Structure,
    closed: Selection,
    differences: tuple[float, ...],
) -> Check:
    """Whether the differences are rounding; where a trained model has multiplied it, float64 decides."""
    dtype = next(cut.parameters()).dtype
    allowed, worst = TOLERANCE.get(dtype, 1e-4), max(differences)
    holds = worst <= allowed
    detail = f"largest relative difference {worst:.1e} over {len(differences)} outputs, allowed {allowed:.0e}"
    if not holds and dtype == torch.float32:
        exact, apart = _in_float64(cut, dense, structure, closed)
        holds = exact <= TOLERANCE[torch.float64] and apart <= _ROUNDING
        detail += f"; cut and compared in float64 {exact:.1e}, its weights rounded and these {apart:.1e} apart"
    return Check(name="cut model equals masked model", holds=holds, detail=detail)


def _in_float64(
    cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, closed: Selection
) -> tuple[float, float]:
    """What is left of the difference without rounding.

    Returns:
        The largest difference of `cut` from the masked model, both in float64 and `cut` with the weights of a cut that
        was made in float64; and the largest between those weights and the ones that `cut` has.
    """
    wide = copy.deepcopy(dense).double()
    exact = dict(cut_anew(wide, closed).named_parameters())
    rounded = {name: value.clone() for name, value in cut.named_parameters()}
    if {name: value.shape for name, value in exact.items()} != {name: value.shape for name, value in rounded.items()}:
        return float("inf"), float("inf")
    apart = max(_relative(exact[name].float(), value) for name, value in rounded.items())
    try:
        cut.double()
        for name, value in cut.named_parameters():
            value.copy_(exact[name])
        return max(compare(cut, wide, structure, closed, torch.Generator().manual_seed(0))), apart
    finally:
        cut.float()
        for name, value in cut.named_parameters():
            value.copy_(rounded[name])


def _frames(cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure) -> Check:
    least = structure.shortest
    samples = [*range(least, least + 700, 37), 16000, 79999, 480000]
    heard = torch.tensor([structure.heard(length) for length in samples])
    same = torch.equal(frames_of(cut, heard), frames_of(dense, heard))
    detail = f"{len(samples)} lengths from {least} to {samples[-1]} samples"
    return Check(name="same frame count for every length", holds=same, detail=detail)


def _states(cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, generator: torch.Generator) -> Check:
    audio = _noise(structure, 8000, next(cut.parameters()).dtype, generator)
    ours, theirs = _run(cut, audio), _run(dense, audio)
    expected = encoder_config(cut.config).num_hidden_layers + 1
    holds = len(ours.hidden_states) == expected and ours[0].shape == theirs[0].shape
    holds &= all(state.shape == theirs.hidden_states[0].shape for state in ours.hidden_states)
    trimmed = len(theirs.hidden_states) - expected
    note = f", {trimmed} trailing layers trimmed" if trimmed else ""
    detail = f"{len(ours.hidden_states)} hidden states of width {ours.hidden_states[0].shape[-1]}{note}; output "
    return Check(
        name="same hidden states, widths and head",
        holds=holds,
        detail=detail + "x".join(map(str, ours[0].shape)),
    )


def _padding(cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, generator: torch.Generator) -> Check:
    audio = _noise(structure, 9000, next(cut.parameters()).dtype, generator)
    behind = structure.heard(14000) - audio.shape[1]
    padded = torch.cat([audio, audio.new_zeros(1, behind, *audio.shape[2:])], dim=1)
    attention = torch.nn.functional.pad(torch.ones(audio.shape[:2], dtype=torch.long), (0, behind))
    moved = []
    for model in (cut, dense):
        alone, within = _run(model, audio).hidden_states[-1], _run(model, padded, attention).hidden_states[-1]
        moved.append(_relative(alone, within[:, : alone.shape[1]]))
    detail = f"padding moves valid frames by {moved[0]:.1e}; in the dense model by {moved[1]:.1e}"
    if structure.sees_padding:
        detail += " (this architecture sees padding, in stock code too)"
    holds = moved[0] <= 1e-3 or structure.sees_padding
    return Check(name="padded equals unpadded as far as the dense model's", holds=holds, detail=detail)


def _short(cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, generator: torch.Generator) -> Check:
    least = structure.heard(structure.shortest)
    unit = "vectors of features" if structure.features else "samples"
    outcomes = []
    for model in (cut, dense):
        audio = _noise(structure, structure.shortest, next(cut.parameters()).dtype, generator)
        frames = _run(model, audio).hidden_states[-1].shape[1]
        try:
            _run(model, audio[:, :-1])
            below = "runs"
        except (RuntimeError, ValueError):
            below = "raises"
        outcomes.append((frames, below))
    detail = f"{least} {unit} give {outcomes[0][0]} frame, one less {outcomes[0][1]}; so does the dense model"
    return Check(name="short audio behaves as in the dense model", holds=outcomes[0] == outcomes[1], detail=detail)


def _implementations(
    cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, generator: torch.Generator
) -> Check:
    audio = _noise(structure, 8000, next(cut.parameters()).dtype, generator, batch=2)
    names = ["eager"] + (["sdpa"] if cut._supports_sdpa else [])
    allowed, ours = TOLERANCE.get(audio.dtype, 1e-4), _apart(cut, audio, names)
    detail, holds = _agreement(ours, names), ours <= allowed
    if not holds and dense._supports_sdpa:  # rounding that the model multiplies, or a fault of the library
        theirs = _apart(dense, audio, names)
        holds = not theirs <= allowed and math.isfinite(ours) >= math.isfinite(theirs)
        detail += f"; in the dense model {_agreement(theirs, names)}"
    return Check(name="every attention implementation", holds=holds, detail=detail)


def _agreement(apart: float, names: Sequence[str]) -> str:
    if math.isfinite(apart):
        return f"{', '.join(names)} agree to {apart:.1e}"
    return f"not all of {', '.join(names)} give finite numbers"


def _apart(model: PreTrainedModel, audio: Tensor, names: Sequence[str]) -> float:
    """How far apart the outputs of some implementations of attention are."""
    before, outputs = model.config._attn_implementation, []
    try:
        for name in names:
            model.set_attn_implementation(name)
            outputs.append(_run(model, audio).hidden_states[-1])
    finally:
        model.set_attn_implementation(before)
    return max(_relative(outputs[0], other) for other in outputs)


def _bfloat16(cut: PreTrainedModel, structure: Structure, generator: torch.Generator) -> Check:
    audio = _noise(structure, 8000, torch.float32, generator)
    dtype = next(cut.parameters()).dtype
    exact = _run(cut, audio.to(dtype)).hidden_states[-1]
    state, buffers = (
        {name: value.clone() for name, value in found} for found in (cut.state_dict().items(), cut.named_buffers())
    )
    module: nn.Module = cut
    try:
        module.to(torch.bfloat16)
        rounded = _run(cut, audio.bfloat16()).hidden_states[-1]
    finally:
        module.to(dtype).load_state_dict(state)
        for name, buffer in module.named_buffers():  # those that are not saved, too
            buffer.copy_(buffers[name])
    error = float((exact.double() - rounded.double()).square().mean().sqrt() / exact.double().square().mean().sqrt())
    return Check(name="bfloat16", holds=error < 0.2, detail=f"runs; relative error {error:.1e}")


def _compiled(cut: PreTrainedModel, structure: Structure, generator: torch.Generator) -> Check:
    audio = _noise(structure, 8000, next(cut.parameters()).dtype, generator)
    plain = cut(audio)[0]
    error = _relative(plain, torch.compile(cut)(audio)[0])
    return Check(name="torch.compile", holds=error < 1e-4, detail=f"agrees to {error:.1e}")
