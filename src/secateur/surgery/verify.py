"""The proof that a cut model is the masked model, together with the drop-in contract."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.cost import Cost, Terms
from secateur.masking import attach, values_of
from secateur.masking.attach import base_of
from secateur.masking.parts import Parts
from secateur.structure import Selection, Structure, close
from secateur.structure.structure import TRANSDUCER
from secateur.surgery.comparison import (
    final_output,
    inference,
    random_audio,
    relative_difference,
    run_model,
    shortest_usable,
)
from secateur.surgery.contract import TOLERANCE, Check, Subject, contract_checks
from secateur.surgery.cut import cut as cut_anew

_ROUNDING = 1e-6  # of a parameter in float32


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of `verify`.

    Attributes:
        checks: The proof, where there was a masked model to compare with, and the contract, line by line.
        differences: Largest relative difference of each hidden state (index 0 is the encoder's input), and last the
            final output; empty when there was no masked model to compare with, NaN where the masked model itself gives
            NaN or infinite values.
    """

    checks: tuple[Check, ...]
    differences: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether every line holds."""
        return all(check.holds for check in self.checks)

    @property
    def is_proven(self) -> bool:
        """Whether every line of the proof holds; lines of the contract may not."""
        return all(check.holds for check in self.checks if check.is_proof)

    @property
    def refusal(self) -> str:
        """The sentence with which an unproven model is refused; empty where the proof holds."""
        if self.is_proven:
            return ""
        if any(map(math.isnan, self.differences)):
            return (
                "The masked model gives NaN or infinite values, so nothing can be proven of the cut one: look for them "
                "in the checkpoint and in the losses of the run (a lower learning rate, precision fp32)."
            )
        failed = "; ".join(f"{one.name} ({one.detail})" for one in self.checks if one.is_proof and not one.holds)
        return f"The cut model is not the masked model, which is our mistake, not yours: {failed}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"holds": self.holds, "proven": self.is_proven} | asdict(self)


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
    with inference(cut), inference(dense):
        shortest = shortest_usable(dense, structure)
        if selection is not None:
            closed = close(structure, selection).selection
            checks.append(_parameters(cut, structure, closed))
            differences = compare(cut, dense, structure, closed, generator, shortest=shortest)
            checks.append(_equal(cut, dense, structure, closed, differences, shortest=shortest))
        subject = Subject(cut=cut, dense=dense, structure=structure, shortest=shortest, generator=generator)
        checks += contract_checks(subject, compile=compile)
    return Verification(checks=tuple(checks), differences=differences)


def compare(
    cut: PreTrainedModel,
    dense: PreTrainedModel,
    structure: Structure,
    closed: Selection,
    generator: torch.Generator,
    *,
    shortest: int | None = None,
) -> tuple[float, ...]:
    """Return the largest difference between masked and cut over random audio of many lengths, padded and not.

    Where a head needs more than the shortest audio that its encoder takes, the encoders are compared on that too.

    Args:
        cut: The cut model.
        dense: The model that it was cut from.
        structure: Of the dense model.
        closed: The closed selection of the cut.
        generator: Of the audio.
        shortest: The fewest samples that the dense model takes; None is those of one frame.

    Returns:
        One figure per hidden state of the cut model and one for the output, each relative to the root mean square of
        the masked model's activations.
    """
    dtype = next(cut.parameters()).dtype
    least = shortest or structure.shortest
    masking = attach(dense, structure)
    masking.set(values_of(structure, closed, dtype).to(next(dense.parameters()).device))
    worst: list[float] = []
    try:
        for audio, attention in _audio(structure, least, dtype, generator):
            worst = _worse(worst, _differences(dense, cut, audio, attention))
        if least > structure.shortest:
            for samples in (structure.shortest, 3 * structure.shortest + 7):
                audio = random_audio(structure, samples, dtype, generator)
                worst = _worse(worst, _differences(base_of(dense), base_of(cut), audio, None))
    finally:
        masking.remove()
    return tuple(worst)


def _audio(
    structure: Structure, least: int, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield batches from the shortest usable audio on, with attention masks where rows are padded."""
    for samples in (least, least + 1, 3 * least + 7, 8000, 16123):
        yield random_audio(structure, max(samples, least), dtype, generator), None
    for rows in ((12000, 7001), (9000, least, 4567)):
        samples_of = [max(samples, least) for samples in rows]
        audio = random_audio(structure, max(samples_of), dtype, generator, batch=len(samples_of))
        lengths = torch.tensor([structure.heard(samples) for samples in samples_of])
        attention = (torch.arange(audio.shape[1]) < lengths[:, None]).long()
        yield audio * attention.view(*attention.shape, *[1] * (audio.dim() - 2)), attention


def _differences(masked: Any, cut: Any, audio: Tensor, attention: Tensor | None) -> list[float]:
    """Return the relative difference of each hidden state that the cut model has, and of the output."""
    reference, other = (run_model(model, audio, attention) for model in (masked, cut))
    # Trimmed layers have no hidden state in the cut model; the masked one repeats the last.
    pairs = [*zip(reference.hidden_states, other.hidden_states, strict=False)]
    pairs.append((final_output(reference), final_output(other)))
    return [relative_difference(a, b) for a, b in pairs]


def _worse(first: list[float], second: list[float]) -> list[float]:
    """Return the larger of each pair of differences; NaN counts as the largest."""
    if not first:
        return second
    return [b if math.isnan(b) or b > a else a for a, b in zip(first, second, strict=True)]


def _parameters(cut: PreTrainedModel, structure: Structure, closed: Selection) -> Check:
    terms, holds, details = Terms(structure), True, []
    own = Parts(cut, declare(cut.config)).parameters()
    for scope in ("whole", TRANSDUCER) if structure.head else ("whole",):
        expected = Cost.of(terms, cost="parameters", scope=scope).count(closed)
        counted = sum(value.numel() for name, value in own.items() if structure.in_scope(name, scope))
        of = " in the head" if scope == TRANSDUCER else ""
        details.append(f"{counted:,} counted{of}, {expected:,} by the selection")
        holds &= counted == expected
    return Check(name="parameters are those of the selection", holds=holds, detail="; ".join(details), is_proof=True)


def _equal(
    cut: PreTrainedModel,
    dense: PreTrainedModel,
    structure: Structure,
    closed: Selection,
    differences: tuple[float, ...],
    *,
    shortest: int,
) -> Check:
    """Check that the differences are rounding; where a trained model has multiplied it, float64 decides."""
    dtype, name = next(cut.parameters()).dtype, "cut model equals masked model"
    if any(map(math.isnan, differences)):
        detail = "the masked model gives NaN or infinite values"
        return Check(name=name, holds=False, detail=detail, is_proof=True)
    allowed, worst = TOLERANCE.get(dtype, 1e-4), max(differences)
    holds = worst <= allowed
    detail = f"largest relative difference {worst:.1e} over {len(differences)} outputs, allowed {allowed:.0e}"
    if not holds and dtype == torch.float32:
        exact, apart = _in_float64(cut, dense, structure, closed, shortest=shortest)
        holds = exact <= TOLERANCE[torch.float64] and apart <= _ROUNDING
        detail += f"; cut and compared in float64 {exact:.1e}, its weights rounded and these {apart:.1e} apart"
    return Check(name=name, holds=holds, detail=detail, is_proof=True)


def _in_float64(
    cut: PreTrainedModel, dense: PreTrainedModel, structure: Structure, closed: Selection, *, shortest: int
) -> tuple[float, float]:
    """Return what is left of the difference without rounding.

    Returns:
        The largest difference of `cut` from the masked model, both in float64 and `cut` with the weights of a cut that
        was made in float64; and the largest between those weights and the ones that `cut` has.
    """
    wide = copy.deepcopy(dense).double()
    exact = dict(cut_anew(wide, closed).named_parameters())
    rounded = {name: value.clone() for name, value in cut.named_parameters()}
    if {name: value.shape for name, value in exact.items()} != {name: value.shape for name, value in rounded.items()}:
        return float("inf"), float("inf")
    apart = max(relative_difference(exact[name].float(), value) for name, value in rounded.items())
    try:
        cut.double()
        for name, value in cut.named_parameters():
            value.copy_(exact[name])
        generator = torch.Generator().manual_seed(0)
        return max(compare(cut, wide, structure, closed, generator, shortest=shortest)), apart
    finally:
        cut.float()
        for name, value in cut.named_parameters():
            value.copy_(rounded[name])
